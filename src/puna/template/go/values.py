"""What templates work with, in Python and in Go's eyes.

| Python | Go |
|---|---|
| `None` | nil in an interface |
| `ABSENT` | no value at all |
| `bool`, `int`, `Byte`, `float`, `complex`, `str` | bool, int, uint8, float64, complex128, string |
| `list`, `tuple` | []interface {} |
| `dict` | map[string]interface {} |
| `Struct`, `Stringer` | a struct; a value that prints as it likes |

Nothing else is reachable: no attribute and no method of a Python object.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from puna import gojson

MAX_DEPTH = 100


class Absent(Enum):
    """The one value of its kind: what `nil` in a pipeline comes to."""

    ABSENT = "<no value>"


ABSENT = Absent.ABSENT


class Byte(int):
    """An unsigned byte, as indexing a text gives."""


@dataclass(frozen=True, slots=True)
class Struct:
    """A value with a fixed set of fields; naming any other is an error.

    Attributes:
        type: its name in Go, for messages and `%T`.
        fields: what templates see, by Go's names.
        json: its JSON form, the keys in the order of writing; None for the fields as they are.
        prints_json: it prints as its JSON, not in Go's way of printing structs.
    """

    type: str
    fields: Mapping[str, "Value"]
    json: Any = None
    prints_json: bool = False


@dataclass(frozen=True, slots=True)
class Stringer:
    """A list or map that prints as a text of its own.

    Attributes:
        type: its name in Go, for messages and `%T`.
        value: what indexing, ranging and fields work on.
        write: how it prints.
    """

    type: str
    value: "Sequence[Value] | Mapping[str, Value]"
    write: "Callable[[Value], str]"


Value: TypeAlias = (
    Absent
    | bool
    | int
    | float
    | complex
    | str
    | Sequence["Value"]
    | Mapping[str, "Value"]
    | Struct
    | Stringer
    | None
)


def plain(value: Value) -> Value:
    """The list or map behind a Stringer, any other value as it is."""
    return value.value if isinstance(value, Stringer) else value


def is_nil(value: Value) -> bool:
    """Whether it is nil, in an interface or not."""
    return value is None or value is ABSENT


def truth(value: Value) -> bool:
    """Whether `if` takes its first branch: false are nil, zero and what is empty."""
    value = plain(value)
    if is_nil(value):
        return False
    return True if isinstance(value, Struct) else bool(value)


def own_text(value: Value) -> str | None:
    """How a value prints that has its own way, None for others. Raises ValueError."""
    if isinstance(value, Stringer):
        return value.write(value.value)
    return to_json(value) if isinstance(value, Struct) and value.prints_json else None


def type_name(value: Value) -> str:
    """The name of its type in Go."""
    match value:
        case None | Absent.ABSENT:
            return "<nil>"
        case bool():
            return "bool"
        case Byte():
            return "uint8"
        case int():
            return "int"
        case float():
            return "float64"
        case complex():
            return "complex128"
        case str():
            return "string"
        case Struct() | Stringer():
            return value.type
        case Mapping():
            return "map[string]interface {}"
    return "[]interface {}"


def to_json(value: Value) -> str:
    """The JSON text, as Go's json.Marshal writes it; empty for what has none.

    Raises:
        ValueError: it is nested too deeply.
    """
    try:
        return gojson.encode(_json_form(value, 0), sort_keys=False)
    except TypeError:
        return ""


def _json_form(value: Value, depth: int) -> Any:
    """The value with its maps in the order of writing."""
    if depth > MAX_DEPTH:
        raise ValueError(f"the value is nested more than {MAX_DEPTH} deep")
    value = plain(value)
    if is_nil(value):
        return None
    if isinstance(value, Struct):
        return value.json if value.json is not None else _json_form(dict(value.fields), depth)
    if isinstance(value, Mapping):
        return {key: _json_form(value[key], depth + 1) for key in sorted(value)}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_json_form(item, depth + 1) for item in value]
    return value
