"""Features on disk: an entry is computed once, and read by every run."""
