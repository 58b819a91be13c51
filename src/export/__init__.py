"""A classifier in one file for other programs: `python -m src.export`."""
