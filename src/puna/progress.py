"""What a long operation reports while it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a fetch, a push or a creation.

    Attributes:
        status: what is being done, in words fit for a person; Ollama's words where it has some.
        completed: bytes done; 0 where bytes are not counted.
        total: bytes to do; 0 where that is unknown.
        digest: the blob that the bytes belong to, as `sha256:<hex>`; empty where there is none.
    """

    status: str
    completed: int = 0
    total: int = 0
    digest: str = ""


def document(step: Progress) -> dict[str, str | int]:
    """The step as a line of Ollama's progress streams has it: what is zero or empty is left out."""
    fields: dict[str, str | int] = {"digest": step.digest, "total": step.total, "completed": step.completed}
    return {"status": step.status, **{name: value for name, value in fields.items() if value}}


Report: TypeAlias = Callable[[Progress], None]
