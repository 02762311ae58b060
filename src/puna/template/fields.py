"""Reading the JSON objects that clients send. Every function raises InvalidOption."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from puna.errors import InvalidOption

Json: TypeAlias = Any
MAX_DEPTH = 60
_KINDS = {str: "text", bool: "truth value", int: "number", float: "number", list: "list", dict: "object"}


def text_of(values: Mapping[str, Json], name: str) -> str:
    """The text under a name, empty if there is none."""
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidOption(f"{name!r} must be a text, but is a {_kind(value)}")
    return value or ""


def list_field(values: Mapping[str, Json], name: str) -> list[Json]:
    """The list under a name, empty if there is none."""
    value = values.get(name)
    if value is not None and not isinstance(value, list | tuple):
        raise InvalidOption(f"{name!r} must be a list, but is a {_kind(value)}")
    return list(value or ())


def object_field(values: Mapping[str, Json], name: str) -> Mapping[str, Json]:
    """The object under a name, empty if there is none."""
    value = values.get(name)
    return {} if value is None else object_of(value, repr(name))


def object_of(value: Json, what: str) -> Mapping[str, Json]:
    """The value, which must be an object; `what` it is goes into the error."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidOption(f"{what} must be an object, but is a {_kind(value)}")
    return value


def in_order(value: Json, depth: int = 0) -> Json:
    """The value with the keys of its objects in the order of Go's maps."""
    if depth > MAX_DEPTH:
        raise InvalidOption(f"a value is nested more than {MAX_DEPTH} deep; simplify it")
    if isinstance(value, Mapping):
        return {key: in_order(value[key], depth + 1) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [in_order(item, depth + 1) for item in value]
    return value


def _kind(value: Json) -> str:
    return _KINDS.get(type(value), type(value).__name__)
