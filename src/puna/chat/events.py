"""What a model's answer is made of; plain data, shared by parsers, services and dialects."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Content:
    """The next piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """The next piece of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool, complete.

    Attributes:
        index: counts the calls of one answer from 0.
        name: the tool's name as it was declared, or as the model wrote it where no such tool is declared.
        arguments: JSON values by name, in the order in which the model wrote them.
        id: the model's own name for this call; most models give none.
    """

    index: int
    name: str
    arguments: dict[str, Any]
    id: str | None = None


Event = Content | Thinking | ToolCall
