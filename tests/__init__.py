"""The tests of the installed package.

`python -m` puts the checkout first on the path, where its `binance_insurance` would hide the
installed one. Nothing of it is imported before this file, so it is moved to the end here: only
what is not installed, `tests` and `benchmarks`, is found there. The processes that tests start
inherit that the current directory is not on their path at all.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]
sys.path.append(str(ROOT))
os.environ["PYTHONSAFEPATH"] = "1"
