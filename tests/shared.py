"""Development material beside a checkout; a user's clone lacks it, so these tests skip there."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"

needs_shared = pytest.mark.skipif(
    not (SHARED / "DESIGN.md").is_file(), reason="the development material ../shared is absent"
)
