"""Features of the frozen backbone: computed once, kept on disk, read by every method."""
