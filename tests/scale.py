"""How much the tests try: a sample in the suite, everything in the nox session `campaign`.

`CAMPAIGN=1` in the environment switches from one to the other, and `EXAMPLES=1` lets all pages of
the documentation be tried, as the nox session `examples` does.
"""

from __future__ import annotations

import os

CAMPAIGN = bool(os.environ.get("CAMPAIGN"))
EXAMPLES = bool(os.environ.get("EXAMPLES"))


def sample(few: int, all_of_them: int) -> int:
    """Return how much to try: few in the suite, all in the campaign."""
    return all_of_them if CAMPAIGN else few
