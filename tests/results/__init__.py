from pathlib import Path

VERSION_1 = Path(__file__).parents[1] / "fixtures/results_version_1"
"""A sweep's folder that was written when records had version 1."""
