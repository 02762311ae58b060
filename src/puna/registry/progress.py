"""What a fetch reports while it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a fetch.

    Attributes:
        status: what is being done, in words fit for a person.
        completed: bytes done; 0 where bytes are not counted.
        total: bytes to do; 0 where that is unknown.
    """

    status: str
    completed: int = 0
    total: int = 0


Report: TypeAlias = Callable[[Progress], None]
