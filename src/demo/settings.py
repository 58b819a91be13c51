"""What is typed after `python -m src.demo`; imports no torch."""

from dataclasses import dataclass

from src.errors import UserError
from src.typed import check_model

LAST_PORT = 65535


@dataclass(frozen=True)
class Settings:
    """What is typed, as key=value.

    Attributes:
        model: the folder of a run, or its classifier/.
        host: the address to listen at; 127.0.0.1 is reached from this machine only, 0.0.0.0 from
            every machine that reaches this one.
        port: the port to listen at; 0 is any free one.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 7860

    def __post_init__(self) -> None:
        """Check what can be checked without the classifier.

        Raises:
            UserError: a setting is wrong.
        """
        check_model(self.model)
        if not 0 <= self.port <= LAST_PORT:
            raise UserError(f"port={self.port}: give a number from 1 to {LAST_PORT}, or 0.")
