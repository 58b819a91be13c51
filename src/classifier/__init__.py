"""What a run leaves for new pictures: `folder.py` on disk, `classifier.py` in use."""
