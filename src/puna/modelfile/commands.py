"""What a Modelfile consists of."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from puna.errors import InvalidOption

COMMANDS = (
    *("from", "license", "template", "system", "adapter", "draft", "renderer", "parser"),
    *("parameter", "message", "requires"),
)
ROLES = ("system", "user", "assistant")

# White space, and two characters that show as little. Ollama drops all but the first two wherever they stand,
# so around a value they mean nothing.
BLANKS = " \t\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
BLANKS += "\u2028\u2029\u202f\u205f\u3000\u200b\ufeff"

KEY = re.compile(r"[A-Za-z0-9_]+", re.ASCII)
# Whatever is neither text nor layout: control characters but tab, line feed and carriage return.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]+")
_UNPAIRED = re.compile(r"[\ud800-\udfff]")


class Position(NamedTuple):
    """A place in a text: line and column, both counted from 1; the column in characters."""

    line: int
    column: int


NOWHERE = Position(0, 0)


@dataclass(frozen=True, slots=True)
class Command:
    """One instruction.

    Attributes:
        name: one of `COMMANDS`.
        value: its text, without the control characters that `clean` drops.
        key: the option of a `parameter`, the role of a `message`, empty for the others.
        place: where the command begins in the text it was read from; not compared.
        value_place: where its value begins; not compared.

    Raises:
        InvalidOption: the name, option or role cannot stand in a Modelfile.
    """

    name: str
    value: str
    key: str = ""
    place: Position = field(default=NOWHERE, compare=False)
    value_place: Position = field(default=NOWHERE, compare=False)

    def __post_init__(self) -> None:
        if self.name not in COMMANDS:
            raise InvalidOption(f"a Modelfile has no command {self.name[:100]!r}")
        if self.name == "message" and self.key not in ROLES:
            raise InvalidOption(f"a Modelfile has no message role {self.key[:100]!r}")
        if self.name == "parameter" and not KEY.fullmatch(self.key):
            raise InvalidOption(f"a Modelfile cannot name the parameter {self.key[:100]!r}")
        if self.name not in ("message", "parameter") and self.key:
            raise InvalidOption(f"the Modelfile command {self.name} takes no {self.key[:100]!r}")
        object.__setattr__(self, "value", clean(self.value))


@dataclass(frozen=True, slots=True)
class Modelfile:
    """Commands in their order. One that came from a text has at least one `from`."""

    commands: tuple[Command, ...]

    def values(self, name: str) -> list[str]:
        """The values of every command of that name, in order."""
        return [command.value for command in self.commands if command.name == name]


def clean(text: str) -> str:
    """`text` without control characters other than tabs and line ends; U+FFFD for unpaired surrogates."""
    return _UNPAIRED.sub("\ufffd", _CONTROL.sub("", text))
