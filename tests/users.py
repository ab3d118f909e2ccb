"""What users run: a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def run_pytest(directory: Path, files: Mapping[str, str]) -> str:
    """Run pytest on files in a directory, with the plugins that users have, and strictly."""
    for name, text in files.items():
        (directory / name).write_text(text, "utf-8")
    plugins = ["pytest_asyncio.plugin", "anyio.pytest_plugin", "no:cacheprovider"]
    options = [
        *(option for plugin in plugins for option in ("-p", plugin)),
        # Without it, pytest-asyncio warns.
        *("-o", "asyncio_default_fixture_loop_scope=function"),
        # Without it, pytest takes from other users the directory above that of all other runs.
        *("--basetemp", str(directory / "temporary")),
    ]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-W", "error", "-rA", *options],
        cwd=directory,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr
