"""What a long operation reports while it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NotRequired, TypeAlias, TypedDict


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


class ProgressDocument(TypedDict):
    """A step as a line of Ollama's progress streams has it."""

    status: str
    digest: NotRequired[str]
    total: NotRequired[int]
    completed: NotRequired[int]


def document(step: Progress) -> ProgressDocument:
    """The step as a line; what is zero or empty is left out."""
    found = ProgressDocument(status=step.status)
    if step.digest:
        found["digest"] = step.digest
    if step.total:
        found["total"] = step.total
    if step.completed:
        found["completed"] = step.completed
    return found


Report: TypeAlias = Callable[[Progress], None]
