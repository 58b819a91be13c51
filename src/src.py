"""What `python src/run.py` finds in place of the package `src`: it says what to type instead.

Python then looks for `src` in this folder, not in the one above.
"""

import sys
from pathlib import Path

print(
    f"error: type `python -m src.{Path(sys.argv[0]).stem}` in the project's folder.",
    file=sys.stderr,
)
raise SystemExit(2)
