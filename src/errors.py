"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake in the configuration, the data or the environment.

    The message names the file or key and the remedy. Command lines print only the message and exit
    with code 2. Every other exception is a bug and keeps its traceback.
    """


LARGEST = 2**32 - 1
"""The largest integer that random number generators take as a seed."""


def require_integer(setting: str, value: object, least: int) -> None:
    """Refuse a setting that is not an integer, or not from `least` to `LARGEST`.

    Raises:
        UserError: it is not; the message names the setting.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST:
        raise UserError(
            f"{setting}={value} is not an integer from {least} up (to {LARGEST}): give one."
        )
