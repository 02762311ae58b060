"""The functions that templates may call: Go's own, and those that Ollama adds.

Source: the documentation of Go's text/template ("Functions"); Ollama's template documentation for `json`,
`currentDate`, `yesterdayDate` and `toTypeScriptType`. `and` and `or` are not here: they do not evaluate all
of their arguments. A function raises ValueError when it refuses its arguments.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from types import MappingProxyType
from urllib.parse import quote_plus

from puna.template.go import literals, printing
from puna.template.go.budget import Budget
from puna.template.go.values import (
    ABSENT,
    Byte,
    Stringer,
    Struct,
    Value,
    is_nil,
    plain,
    to_json,
    truth,
    type_name,
)

LAZY = frozenset(("and", "or"))


@dataclass(frozen=True, slots=True)
class Builtin:
    """A function.

    Attributes:
        least: how many arguments it needs.
        most: how many it takes, None for any number.
        call: computes the result.
        rewrites: its arguments' texts come out again, perhaps longer.
    """

    least: int
    most: int | None
    call: Callable[[Sequence[Value], Budget], Value]
    rewrites: bool = False


def kind(value: Value) -> str:
    """What comparisons go by: one of the basic kinds, `nil`, or a kind that cannot be compared."""
    match value:
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float"
        case complex():
            return "complex"
        case str():
            return "string"
    if is_nil(value):
        return "nil"
    return "struct" if isinstance(value, Struct) else "map" if isinstance(value, Mapping) else "list"


_BASIC = frozenset(("bool", "int", "float", "complex", "string"))


def _equal(left: Value, right: Value) -> bool:
    left, right = plain(left), plain(right)
    kinds = kind(left), kind(right)
    if "nil" in kinds:
        return kinds == ("nil", "nil")
    if kinds[0] != kinds[1] and not _BASIC.isdisjoint(kinds):
        raise ValueError(f"a {type_name(left)} and a {type_name(right)} cannot be compared")
    if kinds[0] not in _BASIC:
        raise ValueError(f"values of type {type_name(left)} cannot be compared")
    return left == right


def _less(left: Value, right: Value) -> bool:
    match plain(left), plain(right):
        case (bool(), _) | (_, bool()):
            pass
        case (int() as a, int() as b):
            return a < b
        case (float() as x, float() as y):
            return x < y
        case (str() as s, str() as t):
            return literals.encode(s) < literals.encode(t)
    raise ValueError(f"a {type_name(left)} and a {type_name(right)} have no order")


def _eq(arguments: Sequence[Value], budget: Budget) -> bool:
    first, *others = arguments
    if not others:
        raise ValueError("there is nothing to compare with")
    return any(_equal(first, other) for other in others)


def _le(left: Value, right: Value) -> bool:
    return _less(left, right) or _equal(left, right)


def _comparison(compare: Callable[[Value, Value], bool], expected: bool) -> Builtin:
    return Builtin(2, 2, lambda arguments, budget: compare(arguments[0], arguments[1]) is expected)


def _len(arguments: Sequence[Value], budget: Budget) -> int:
    value = plain(arguments[0])
    if isinstance(value, str):
        return len(value) if value.isascii() else len(literals.encode(value))
    if isinstance(value, Mapping | Sequence):
        return len(value)
    raise ValueError(f"a value of type {type_name(value)} has no length")


def _index(arguments: Sequence[Value], budget: Budget) -> Value:
    item, *indexes = arguments
    if is_nil(item):
        raise ValueError("nil cannot be indexed")
    for index in indexes:
        item = _element(plain(item), index)
    return item


def _element(item: Value, index: Value) -> Value:
    if isinstance(item, Mapping):
        if not isinstance(index, str):
            raise ValueError(f"a map is indexed by texts, not by {type_name(index)}")
        return item.get(index)
    if isinstance(item, str):
        data = literals.encode(item)
        return Byte(data[_place(index, len(data) - 1)])
    if isinstance(item, Sequence):
        return item[_place(index, len(item) - 1)]
    raise ValueError(f"a value of type {type_name(item)} cannot be indexed")


def _place(index: Value, largest: int) -> int:
    if isinstance(index, bool) or not isinstance(index, int):
        raise ValueError(f"a list is indexed by integers, not by {type_name(index)}")
    if not 0 <= index <= largest:
        raise ValueError(f"the index {index} is out of range")
    return int(index)


def _slice(arguments: Sequence[Value], budget: Budget) -> Value:
    whole, *indexes = arguments
    item = plain(whole)
    if isinstance(item, str):
        data = literals.encode(item)
        if len(indexes) > 2:
            raise ValueError("a text takes two indexes at most")
        start, end = _bounds(indexes, len(data))
        return literals.decode(data[start:end])
    if not isinstance(item, Sequence):
        raise ValueError(f"a value of type {type_name(item)} cannot be sliced")
    start, end = _bounds(indexes, len(item))
    budget.step((end - start) // 8)
    part = item[start:end]
    return replace(whole, value=part, json=None) if isinstance(whole, Stringer) else part


def _bounds(indexes: Sequence[Value], length: int) -> tuple[int, int]:
    places = [_place(index, length) for index in indexes]
    start, end, most = [*places, *(0, length, length)[len(places) :]]
    if not start <= end <= most:
        raise ValueError(f"the indexes {', '.join(map(str, places))} are not in order")
    return start, end


def _printf(arguments: Sequence[Value], budget: Budget) -> str:
    format, *values = arguments
    if not isinstance(format, str):
        raise ValueError(f"the format must be a text, not a {type_name(format)}")
    return printing.print_format(format, values, budget.make)


_HTML = str.maketrans({"\0": "\ufffd", '"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;"})
_JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}


def _joined(arguments: Sequence[Value]) -> str:
    return printing.print_all([ABSENT.value if is_nil(value) else value for value in arguments])


_JS_SPECIAL = re.compile(r"""[^ !#-%(-;?-\[\]-\x7f]""")


def _js_character(match: re.Match[str]) -> str:
    character = match[0]
    if character in _JS:
        return _JS[character]
    if "\udc80" <= character <= "\udcff":
        return character
    if character >= "\x80" and literals.is_printable(character):
        return character
    return character if " " <= character <= "\x7f" else f"\\u{ord(character):04X}"


def _js(arguments: Sequence[Value], budget: Budget) -> str:
    return _JS_SPECIAL.sub(_js_character, _joined(arguments))


def _html(arguments: Sequence[Value], budget: Budget) -> str:
    return _joined(arguments).translate(_HTML)


def _urlquery(arguments: Sequence[Value], budget: Budget) -> str:
    return quote_plus(literals.encode(_joined(arguments)), safe="")


def _call(arguments: Sequence[Value], budget: Budget) -> Value:
    raise ValueError("no value is a function")


def _type_script(value: Value) -> str:
    """The type in TypeScript of a schema, a JSON type's name, or a list of such names."""
    value = plain(value)
    if isinstance(value, Struct):
        either = plain(value.fields.get("AnyOf"))
        value = either if truth(either) else plain(value.fields.get("Type"))
    if isinstance(value, str):
        return _TYPE_SCRIPT.get(value, "any")
    if not isinstance(value, Sequence):
        return "any"
    return " | ".join(map(_type_script, value)) or "any"


_TYPE_SCRIPT = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}

FUNCTIONS: Mapping[str, Builtin] = MappingProxyType(
    {
        "not": Builtin(1, 1, lambda arguments, budget: not truth(arguments[0])),
        "len": Builtin(1, 1, _len),
        "index": Builtin(1, None, _index),
        "slice": Builtin(1, 4, _slice),
        "eq": Builtin(1, None, _eq),
        "ne": _comparison(_equal, False),
        "lt": _comparison(_less, True),
        "le": _comparison(_le, True),
        "gt": _comparison(_le, False),
        "ge": _comparison(_less, False),
        "print": Builtin(0, None, lambda arguments, budget: printing.print_all(arguments), rewrites=True),
        "println": Builtin(0, None, lambda arguments, budget: printing.print_line(arguments), rewrites=True),
        "printf": Builtin(1, None, _printf, rewrites=True),
        "html": Builtin(0, None, _html, rewrites=True),
        "js": Builtin(0, None, _js, rewrites=True),
        "urlquery": Builtin(0, None, _urlquery, rewrites=True),
        "call": Builtin(1, None, _call),
        "json": Builtin(1, 1, lambda arguments, budget: to_json(arguments[0]), rewrites=True),
        "currentDate": Builtin(0, None, lambda arguments, budget: date.today().isoformat()),
        "yesterdayDate": Builtin(
            0, None, lambda arguments, budget: (date.today() - timedelta(days=1)).isoformat()
        ),
        "toTypeScriptType": Builtin(1, 1, lambda arguments, budget: _type_script(arguments[0])),
    }
)
NAMES = frozenset(FUNCTIONS) | LAZY
