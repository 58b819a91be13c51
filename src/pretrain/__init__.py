"""Pretraining of the embedded backbone `tiny` on rendered glyphs: `python -m src.pretrain`."""
