"""The tree of a parsed template. Positions are offsets into its source, in characters."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Text:
    """What is written as it stands."""

    position: int
    text: str


@dataclass(frozen=True, slots=True)
class Dot:
    """`.`: the current value."""

    position: int


@dataclass(frozen=True, slots=True)
class Nil:
    """`nil`."""

    position: int


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal."""

    position: int
    value: bool | int | float | complex | str


@dataclass(frozen=True, slots=True)
class Function:
    """A function's name, as the first word of a command or as an argument."""

    position: int
    name: str


@dataclass(frozen=True, slots=True)
class Field:
    """`.A.B`: fields of the current value."""

    position: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """`$x.A.B`: a variable, and fields of it. The name has its dollar sign."""

    position: int
    name: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """`(…).A.B`: fields of a term."""

    position: int
    operand: "Operand"
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Command:
    """A function or value with its arguments."""

    position: int
    words: tuple["Operand", ...]


@dataclass(frozen=True, slots=True)
class Pipe:
    """Commands, each of which gets the value of the one before as its last argument.

    Attributes:
        variables: the names that get the value.
        assigns: the variables are there already (`=`), instead of being declared (`:=`).
    """

    position: int
    commands: tuple[Command, ...]
    variables: tuple[str, ...] = ()
    assigns: bool = False


@dataclass(frozen=True, slots=True)
class Action:
    """`{{ pipe }}`: writes the value, unless it goes into variables."""

    position: int
    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Branch:
    """`if`, `with` or `range`, with its `else`.

    Attributes:
        keyword: which of the three.
    """

    position: int
    keyword: str
    pipe: Pipe
    body: tuple["Node", ...]
    otherwise: tuple["Node", ...] = ()


@dataclass(frozen=True, slots=True)
class Break:
    """`{{ break }}`."""

    position: int


@dataclass(frozen=True, slots=True)
class Continue:
    """`{{ continue }}`."""

    position: int


@dataclass(frozen=True, slots=True)
class Invoke:
    """`{{ template "name" pipe }}`, and what remains of `block` in its place."""

    position: int
    name: str
    pipe: Pipe | None


Operand: TypeAlias = Dot | Nil | Constant | Function | Field | Variable | Chain | Pipe
Node: TypeAlias = Text | Action | Branch | Break | Continue | Invoke
Nodes: TypeAlias = tuple[Node, ...]


def every_list(nodes: Nodes) -> Iterator[Nodes]:
    """The list and all lists within it, in the order of the text."""
    waiting = [nodes]
    while waiting:
        current = waiting.pop()
        yield current
        for node in reversed(current):
            if isinstance(node, Branch):
                waiting += (node.otherwise, node.body)


def pipes(nodes: Nodes) -> Iterator[Pipe]:
    """The pipelines of a list itself, those in its branches' bodies left out."""
    for node in nodes:
        if isinstance(node, Action | Branch | Invoke) and node.pipe is not None:
            yield node.pipe


def operands(pipe: Pipe) -> Iterator[Operand]:
    """Every operand of a pipeline, those in parentheses included."""
    for command in pipe.commands:
        for word in command.words:
            yield from _within(word)


def _within(word: Operand) -> Iterator[Operand]:
    yield word
    if isinstance(word, Pipe):
        yield from operands(word)
    elif isinstance(word, Chain):
        yield from _within(word.operand)


def field_names(pipe: Pipe) -> Iterator[str]:
    """The fields that a pipeline names, in the order of the text."""
    for operand in operands(pipe):
        if isinstance(operand, Field | Variable | Chain):
            yield from operand.names
