"""How much the tests try: a sample in the suite, more in the nox session `campaign`.

`CAMPAIGN=1` in the environment switches from one to the other, and `CAMPAIGN=full` lets all be
tried. `EXAMPLES=1` adds the pages of the documentation that the nox session `examples` tries.
"""

from __future__ import annotations

import os

CAMPAIGN = bool(os.environ.get("CAMPAIGN"))
EXAMPLES = bool(os.environ.get("EXAMPLES"))
_FULL = os.environ.get("CAMPAIGN") == "full"


def sample(few: int, all_of_them: int, bounded: int | None = None) -> int:
    """Return how much to try: few in the suite, all in the campaign, unless that is bounded."""
    if not CAMPAIGN:
        return few
    return all_of_them if _FULL or bounded is None else bounded
