"""One paper each: plain modules from features to logits; `base.py` is their contract."""
