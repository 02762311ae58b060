"""JSON Schemas from strangers: what is refused before anything is compiled.

The compiler bounds most of its own work; what is bounded here is what it does not bound (`multipleOf` becomes
an automaton as large as the number, optional properties cost the square of their count) and what no answer
could satisfy. Keywords: JSON Schema 2020-12 and the drafts before it.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from puna.errors import InvalidOption

MAX_BYTES = 256 * 1024
"""The longest JSON Schema, as UTF-8 text."""

MAX_DEPTH = 100
"""How deep objects and lists may lie in each other; the compiler stops at 128 with its own around them."""

MAX_NODES = 10_000
"""Objects, lists and values, without those that are a list's plain items."""

MAX_ITEMS = 10_000
"""Plain items of lists: values of `enum`, names in `required`."""

MAX_PROPERTIES = 2_000
"""Entries of all `properties`; a tenth of a second for 500 optional ones of one object."""

MAX_MULTIPLE = 10_000
"""The least common multiple of the digits of all `multipleOf`: states of an automaton."""

MAX_PRODUCT = 2**32 - 1
"""The largest product of two `multipleOf`, without their points: the compiler multiplies within 32 bits."""

MAX_LEAST = 1_000_000
"""The largest `minItems`, `minLength` or `minProperties`: no context holds a longer answer."""

_LEAST = ("minItems", "minLength", "minProperties", "minContains")
_COMBINING = frozenset({"allOf", "anyOf", "oneOf", "$ref", "$dynamicRef", "$recursiveRef"})
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


def parse_schema(text: str) -> dict[str, Any]:
    """The schema that a JSON text holds, within the limits of this module.

    Raises:
        InvalidOption: the text is too long, no JSON or no object, or `check_schema` refuses it.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise InvalidOption(f"the JSON schema is longer than {MAX_BYTES} bytes")
    try:
        schema = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise InvalidOption(f"the JSON schema is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise InvalidOption(f"the JSON schema is no JSON: {str(error)[:100]}") from error
    if not isinstance(schema, dict):
        raise InvalidOption(f"a JSON schema is an object, not {json.dumps(schema)[:60]}")
    check_schema(schema)
    return schema


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


@dataclass(slots=True)
class _Totals:
    nodes: int = 0
    items: int = 0
    properties: int = 0
    multiples: list[Decimal] = field(default_factory=list)
    combined: bool = False


def check_schema(schema: Mapping[str, Any]) -> None:
    """Refuses a schema that would cost too much or that no answer satisfies.

    Raises:
        InvalidOption: it is too deep or too large, points outside itself, or holds a number out of range.
    """
    totals = _Totals()
    for value, depth in _walk(schema):
        if depth > MAX_DEPTH:
            raise InvalidOption(f"the JSON schema is nested deeper than {MAX_DEPTH} levels")
        totals.nodes += 1
        if isinstance(value, Mapping):
            _check_object(value, totals)
        elif isinstance(value, list):
            totals.items += len(value)
        _check_totals(totals)
    _check_multiples(totals.multiples, together=totals.combined)


def _check_multiples(multiples: Sequence[Decimal], *, together: bool) -> None:
    """`together`: any two of them may come to hold for one number."""
    digits = {int("".join(map(str, multiple.as_tuple().digits))) for multiple in multiples}
    common = math.lcm(*digits)
    if common > MAX_MULTIPLE:
        raise InvalidOption(
            f"the JSON schema's multipleOf {sorted(digits)[:5]} have the common multiple "
            f"{str(common)[:30]}; at most {MAX_MULTIPLE} is supported"
        )
    if len(multiples) < 2 or not together:
        return
    smallest, *_, largest = sorted(multiples)
    if largest / smallest * common > MAX_PRODUCT or largest**2 > MAX_PRODUCT:
        raise InvalidOption(
            f"the JSON schema's multipleOf {smallest:g} and {largest:g} are too far apart, or too large, to "
            "hold for one number"
        )


def _walk(schema: Mapping[str, Any]) -> Iterator[tuple[Any, int]]:
    """Every object, list and value with its depth; plain items of lists are left to their list."""
    stack: list[tuple[Any, int]] = [(schema, 1)]
    while stack:
        value, depth = stack.pop()
        yield value, depth
        if isinstance(value, Mapping):
            stack += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list):
            stack += [(inner, depth + 1) for inner in value if isinstance(inner, (Mapping, list))]


def _check_totals(totals: _Totals) -> None:
    for name, count, most in (
        ("values", totals.nodes, MAX_NODES),
        ("list items", totals.items, MAX_ITEMS),
        ("properties", totals.properties, MAX_PROPERTIES),
    ):
        if count > most:
            raise InvalidOption(f"the JSON schema has more than {most} {name}")


def _check_object(schema: Mapping[str, Any], totals: _Totals) -> None:
    for key in _REFERENCES:
        reference = schema.get(key)
        if isinstance(reference, str) and not reference.startswith("#"):
            raise InvalidOption(
                f"{key} {reference[:100]!r} points outside the JSON schema; only references that begin "
                "with # are followed"
            )
    for key in _LEAST:
        if (least := _number(schema.get(key))) > MAX_LEAST:
            raise InvalidOption(f"{key} is {least:g}; no answer is that long")
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        totals.properties += len(properties)
    if multiple := _multiple(schema.get("multipleOf")):
        totals.multiples.append(multiple)
    totals.combined = totals.combined or not _COMBINING.isdisjoint(schema)


def _number(value: object) -> float:
    """The value of a JSON number; 0 for anything else."""
    try:
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0
    except OverflowError:
        return math.inf


def _multiple(value: object) -> Decimal:
    """A JSON number without the zeros at its end; 0 for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(_number(value)):
        return Decimal(0)
    return Decimal(repr(value)).normalize().copy_abs()
