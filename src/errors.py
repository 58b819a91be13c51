"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake in the configuration, the data or the environment.

    The message names the file or key and the remedy. Command lines print it alone, without a
    traceback, and exit with code 2; every other exception is a bug and keeps its traceback.
    """
