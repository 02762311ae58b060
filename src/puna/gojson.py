"""JSON as Go's `encoding/json` writes it, byte for byte, and as it reads it into types.

Prompts, stored documents and clients depend on it. Source: the documentation of `encoding/json` (Marshal,
HTMLEscape, Unmarshal). Objects made from maps have sorted keys,
those made from structs keep the order of their fields.
"""

import json
import math
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec

T = TypeVar("T")

_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_SPECIAL = re.compile("[<>&\u2028\u2029]")
_EXPONENT = re.compile(r"e([+-])0?(\d)$")


def encode(value: Any, *, sort_keys: bool = True) -> str:
    """The compact JSON text of `value`: dicts, lists, tuples, strings, numbers, booleans, None.

    Args:
        value: what to write. NaN and infinities have no JSON form.
        sort_keys: write objects as Go writes its maps; False keeps their order, as Go does with structs.

    Raises:
        ValueError: a number that JSON cannot hold.
        TypeError: a value of another type, or a key that is no string.
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return _string(value)
        case int():
            return str(value)
        case float():
            return _number(value)
        case Mapping():
            if not all(isinstance(key, str) for key in value):
                raise TypeError("a JSON object has a key that is no string")
            items = sorted(value.items()) if sort_keys else value.items()
            return "{" + ",".join(f"{_string(k)}:{encode(v, sort_keys=sort_keys)}" for k, v in items) + "}"
        case list() | tuple():
            return "[" + ",".join(encode(item, sort_keys=sort_keys) for item in value) + "]"
    raise TypeError(f"{type(value).__name__} has no JSON form")


def document(value: Any, *, sort_keys: bool = True) -> bytes:
    """`value` as Go's `json.Encoder` writes a whole document: UTF-8, with a newline at the end."""
    return encode(value, sort_keys=sort_keys).encode() + b"\n"


def _string(text: str) -> str:
    # Unpaired surrogates cannot be UTF-8; Go writes the replacement character for them.
    clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _SPECIAL.sub(lambda match: _ESCAPES[match[0]], json.dumps(clean, ensure_ascii=False))


def _number(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"{value} has no JSON form")
    magnitude = abs(value)
    if magnitude != 0 and (magnitude < 1e-6 or magnitude >= 1e21):
        # Go leaves out the zero of a one-digit negative exponent, as ES6 does.
        return _EXPONENT.sub(r"e\1\2", repr(value))
    return format(Decimal(repr(value)), "f").removesuffix(".0")


def convert(value: object, kind: type[T]) -> T:
    """The value of a JSON document as a `kind`, by Go's rules for the keys that the Structs in it declare.

    Keys match in any case, unknown ones are passed over, and null leaves a field as it is. Free-form values
    (`Any`, `dict[str, Any]`, unions of several Structs) stay as they are.

    Raises:
        msgspec.ValidationError: a value has the wrong type.
    """
    return msgspec.convert(_folded(value, kind), kind)


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    kind: Any
    nullable: bool


@dataclass(frozen=True, slots=True)
class _Shape:
    """Where in values of a type keys are to be matched: as a Struct, in the items, in the values."""

    struct: type[msgspec.Struct] | None = None
    items: Any = None
    values: Any = None


def _folded(value: Any, kind: Any) -> Any:
    """The value with the keys of its objects as the Structs of `kind` spell them."""
    shape = _shape(kind)
    if isinstance(value, dict):
        if shape.struct is not None:
            return _folded_struct(value, shape.struct)
        if shape.values is not None:
            return {key: _folded(item, shape.values) for key, item in value.items()}
    if isinstance(value, list) and shape.items is not None:
        return [_folded(item, shape.items) for item in value]
    return value


def _folded_struct(value: dict[str, Any], struct: type[msgspec.Struct]) -> dict[str, Any]:
    fields = _fields(struct)
    found = {}
    for key, item in value.items():
        field = fields.get(key) or fields.get(key.lower())
        if field is not None and (item is not None or field.nullable):
            found[field.name] = _folded(item, field.kind)
    return found


@cache
def _fields(struct: type[msgspec.Struct]) -> dict[str, _Field]:
    """The Struct's fields by their names on the wire, as they are and in lower case."""
    fields = {
        field.encode_name: _Field(field.encode_name, field.type, _is_nullable(field.type))
        for field in msgspec.structs.fields(struct)
    }
    return {**{name.lower(): field for name, field in fields.items()}, **fields}


@cache
def _shape(kind: Any) -> _Shape:
    members = _members(kind)
    structs = [member for member in members if _is_struct(member)]
    items = [
        get_args(member)[0] for member in members if get_origin(member) in (list, tuple) and get_args(member)
    ]
    values = [get_args(member)[1] for member in members if get_origin(member) is dict]
    return _Shape(
        structs[0] if len(structs) == 1 else None,
        items[0] if items and _has_struct(items[0]) else None,
        values[0] if values and not structs and _has_struct(values[0]) else None,
    )


def _has_struct(kind: Any) -> bool:
    return any(
        _is_struct(member) or any(_has_struct(inner) for inner in get_args(member))
        for member in _members(kind)
    )


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _is_nullable(kind: Any) -> bool:
    return any(member in (None, types.NoneType, Any, object) for member in _members(kind))


def _members(kind: Any) -> tuple[Any, ...]:
    """The types of a union; of another type itself."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
