"""Writing Modelfiles so that reading them gives the same commands again."""

import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from puna.modelfile.commands import BLANKS, KEY, Command, Modelfile
from puna.modelfile.parser import read_value

# Where a line ends in a quote, so that no quoting can hold it and the next line together.
_QUOTE_AT_LINE_END = re.compile(rf'"[{BLANKS}]*+(?=[\r\n])')


def format(modelfile: Modelfile) -> str:
    """The text of a Modelfile, one command after the other.

    A value is written as it is where that reads back, else in one or three quotes, as Ollama does. Where none
    of these can hold it, it is cut, and `CONTINUE` lines bring the rest (see `puna.modelfile.parser`).
    """
    return "".join(f"{line}\n" for command in modelfile.commands for line in _lines(command))


def parameter_commands(values: Mapping[str, Any]) -> list[Command]:
    """The `PARAMETER` commands of a model's parameters, one for each element of a list.

    Whole numbers are written without exponent, so that they read back as such. What no Modelfile can say is
    left out: objects, nulls, and names with other characters than letters, digits and underscores.
    """
    return [
        Command("parameter", text, name)
        for name, value in values.items()
        if KEY.fullmatch(name)
        for item in (value if isinstance(value, list | tuple) else [value])
        if (text := _scalar_text(item)) is not None
    ]


def _lines(command: Command) -> Iterator[str]:
    head = " ".join(filter(None, (command.name.upper(), command.key)))
    for piece in _pieces(command.value):
        yield f"{head} {piece}"
        head = "CONTINUE"


def _pieces(value: str) -> list[str]:
    """`value` as written, in as few pieces as can be read back."""
    whole = _written(value)
    if whole is not None:
        return [whole]
    ends = [match.end() for match in _QUOTE_AT_LINE_END.finditer(value)]
    return [f'"""{value[start:end]}"""' for start, end in zip([0, *ends], [*ends, len(value)], strict=True)]


def _written(value: str) -> str | None:
    """`value` in the first spelling that reads back as the same."""
    quotes = ('"""', '"') if '"' in value else ('"', '"""')
    spellings = [value] if value else []
    spellings += [quote + value + quote for quote in quotes]
    return next((text for text in spellings if read_value(text) == (value, len(text))), None)


def _scalar_text(value: object) -> str | None:
    match value:
        case bool():
            return str(value).lower()
        case str() | int():
            return str(value)
        case float() if math.isfinite(value):
            return f"{Decimal(repr(value)):f}".removesuffix(".0")
    return None
