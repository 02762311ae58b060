"""How much one request may ask for."""

from collections.abc import Sized
from dataclasses import dataclass

from puna.errors import InvalidOption


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a request may have.

    Attributes:
        messages: of a conversation.
        images: of a conversation.
        stops: texts that end an answer.
        stop_length: characters of one of them.
        inputs: texts to embed, and documents to rank.
        opened: models whose tokenizers are kept at hand.
        opened_bytes: what these may take, roughly.
        threads: prompts that are made at the same time.
    """

    messages: int = 16_384
    images: int = 64
    stops: int = 64
    stop_length: int = 1024
    inputs: int = 2048
    opened: int = 16
    opened_bytes: int = 2 << 30
    threads: int = 4


DEFAULT_LIMITS = Limits()


def check_count(name: str, given: Sized, most: int) -> None:
    """Check that there are not too many. Raises: InvalidOption."""
    if len(given) > most:
        raise InvalidOption(f"there are {len(given)} {name}; at most {most} are allowed")
