"""Calipers: zero-shot and few-shot adaptation of CLIP, one command for every method."""
