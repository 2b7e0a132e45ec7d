"""Imported first by each benchmark: `cache.py` beside it has the name of a package of ours.

Python looks into a script's own folder before all others; here it looks there last.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [
    str(HERE.parent),
    *(entry for entry in sys.path if Path(entry or ".").resolve() != HERE),
    str(HERE),
]
