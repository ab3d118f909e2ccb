"""Draws the picture on the first page of the docs: what the page's example prints.

`python -m tests.picture` runs the example against the sandbox, and writes the picture again.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys

from rich.console import Console
from rich.text import Text

from . import ROOT

PAGE = ROOT / "docs" / "index.md"
PICTURE = ROOT / "docs" / "_static" / "first-page.svg"
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
WEB_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def example() -> str:
    """Return the code that the first page shows."""
    found = EXAMPLE.search(PAGE.read_text("utf-8"))
    if not found:
        raise LookupError(f"{PAGE} shows no Python code")
    return found[1]


def printed(code: str) -> str:
    """Run the code in a process of its own, and return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    ).stdout


def draw(text: str) -> str:
    """Draw a text as a terminal shows it; the picture needs no font from the network."""
    width = max(len(line) for line in text.splitlines())
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(Text(text))
    return WEB_FONT.sub("", console.export_svg(title="output", unique_id="first-page"))


if __name__ == "__main__":
    PICTURE.write_text(draw(printed(example())), "utf-8")
