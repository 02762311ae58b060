"""The options that `PARAMETER` sets: their types, and their values from text.

What range a value may have is for whoever uses it to say (`puna.sampling.parameters`).
Source: Ollama's API documentation (`options`) and the behaviour of its Modelfile parser.
"""

import math
import re
import struct
from collections.abc import Callable
from enum import Enum
from typing import TypeAlias

from puna.errors import ModelfileError
from puna.modelfile.commands import Command, Modelfile

Value: TypeAlias = int | float | bool | list[str]


class Kind(Enum):
    """The type of an option."""

    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    STRINGS = "strings"


KINDS: dict[str, Kind] = {
    **dict.fromkeys(("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread"), Kind.INT),
    **dict.fromkeys(("num_keep", "num_predict", "draft_num_predict", "seed", "top_k"), Kind.INT),
    **dict.fromkeys(("repeat_last_n", "mirostat"), Kind.INT),
    **dict.fromkeys(("temperature", "top_p", "min_p", "typical_p", "repeat_penalty"), Kind.FLOAT),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), Kind.FLOAT),
    **dict.fromkeys(("mirostat_tau", "mirostat_eta"), Kind.FLOAT),
    "use_mmap": Kind.BOOL,
    "stop": Kind.STRINGS,
}
"""Every option of a Modelfile. Ollama has given Mirostat up; Puna has it."""

DEPRECATED = frozenset({"penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock"})
"""Options that old Modelfiles set and that mean nothing any more."""

_INT = re.compile(r"[+-]?[0-9]{1,400}", re.ASCII)
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
_LONGEST_NUMBER = 400
_BOOLS = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}


def parameters(modelfile: Modelfile) -> tuple[dict[str, Value], list[str]]:
    """The options that a Modelfile sets, and a warning for each that is deprecated and left out.

    Of an option that is set twice the last counts, but every `stop`. Floats have single precision, as in
    Ollama: the shortest decimal number that means the same one.

    Raises:
        ModelfileError: an unknown option, or a value that is not of its type.
    """
    values: dict[str, Value] = {}
    stops: list[str] = []
    warnings: list[str] = []
    for command in modelfile.commands:
        if command.name != "parameter":
            continue
        if command.key in DEPRECATED:
            warnings.append(f"parameter {command.key} is deprecated")
        elif KINDS.get(command.key) is Kind.STRINGS:
            stops.append(command.value)
            values[command.key] = stops
        else:
            values[command.key] = _scalar(command)
    return values, warnings


def _scalar(command: Command) -> Value:
    kind = KINDS.get(command.key)
    if kind is None:
        raise ModelfileError(f"unknown parameter '{command.key[:100]}'", *command.place)
    value = _READERS[kind](command.value)
    if value is None:
        raise ModelfileError(f"invalid {kind.value} value [{_shown(command.value)}]", *command.value_place)
    return value


def _shown(text: str) -> str:
    """At most 100 characters on one line; plain text as it is."""
    return repr(text[:100])[1:-1]


def _int(text: str) -> int | None:
    if not _INT.fullmatch(text):
        return None
    value = int(text)
    return value if -(2**63) <= value < 2**63 else None


def _float(text: str) -> float | None:
    if len(text) > _LONGEST_NUMBER or not _FLOAT.fullmatch(text):
        return None
    value = _single(float(text))
    return _shortest(value) if math.isfinite(value) else None


def _single(value: float) -> float:
    """The nearest number of single precision; infinite where there is none."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def _shortest(single: float) -> float:
    """The number with the fewest decimals that rounds to this one in single precision."""
    candidates = (float(f"{single:.{digits}g}") for digits in range(1, 9))
    return next((value for value in candidates if _single(value) == single), float(f"{single:.9g}"))


_READERS: dict[Kind, Callable[[str], Value | None]] = {
    Kind.INT: _int,
    Kind.FLOAT: _float,
    Kind.BOOL: _BOOLS.get,
}
