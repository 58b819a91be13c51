"""The body of a run: the only room that turns a configuration into objects."""
