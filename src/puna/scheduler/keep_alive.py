"""`keep_alive`: how long a model stays in memory after a request, as Ollama's clients write it."""

import math
import re
from typing import Any, Final

from puna.errors import InvalidOption
from puna.humanize import duration_seconds

FOREVER: Final = math.inf

# A number and what stands before the next one, as Go's time.ParseDuration takes a text apart.
_PART = re.compile(r"([0-9]*\.?[0-9]*)([^0-9.]*)", re.ASCII)
_UNITS = {"ns", "us", "µs", "μs", "ms", "s", "m", "h"}
_SHOWN = 100
# What Go's reflect calls the types that JSON has besides numbers and strings.
_GO_TYPES = {bool: "bool", list: "[]interface {}", dict: "map[string]interface {}", type(None): "<nil>"}


def parse_keep_alive(value: Any) -> float:
    """Seconds of a `keep_alive` as decoded from JSON; infinite for anything below 0.

    A number is seconds, a text a duration in Go's form: "10m", "1h30m", "-1".

    Raises:
        InvalidOption: it is something else; the text is Ollama's.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _seconds(value)
    if not isinstance(value, str):
        kind = _GO_TYPES.get(type(value), type(value).__name__)
        raise InvalidOption(f"Unsupported type: '{kind}'")
    try:
        return _seconds(duration_seconds(value))
    except ValueError:
        raise InvalidOption(f"time: {_fault(value)}") from None


def _seconds(value: float) -> float:
    try:
        return FOREVER if value < 0 else float(value)
    except OverflowError:
        return FOREVER


def _fault(text: str) -> str:
    """What is wrong with a duration, in the words of Go's `time` package."""
    body = text[1:] if text[:1] in ("-", "+") else text
    place = 0
    while place < len(body) and (match := _PART.match(body, place)):
        number, unit = match.groups()
        if not number.strip("."):
            break
        if not unit:
            return f"missing unit in duration {_quoted(text)}"
        if unit not in _UNITS:
            return f"unknown unit {_quoted(unit)} in duration {_quoted(text)}"
        place = match.end()
    return f"invalid duration {_quoted(text)}"


def _quoted(text: str) -> str:
    """In double quotes; what is not printable ASCII, byte by byte, as `\\xNN`."""
    shown = text[:_SHOWN].replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if " " <= c <= "~" else _escaped(c) for c in shown) + '"'


def _escaped(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogatepass"))
