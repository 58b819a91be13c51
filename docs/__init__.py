"""The manual: pages in Markdown, and `generate.py`, which writes what conf/ and docstrings say."""
