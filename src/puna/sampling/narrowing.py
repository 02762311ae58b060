"""JSON Schemas written so that the compiler keeps them for what a reader sees: bounds of numbers, and dates.

The compiler compares decimal texts, readers binary64: `-23.00000000000000000001` is below an exclusive
maximum of -23 as a text, and is -23 to who parses it. So numbers with an exclusive bound get at most nine
digits after the point, by a `multipleOf`, and on that grid their bounds are exact. Of `integer` the next
whole number is taken.

The compiler itself takes numbers as binary64, where whole ones beyond 2^53 are others than were written;
reads some of more than 15 digits one step off (serde_json without `float_roundtrip`); and of an exclusive
bound allows the bound itself if the other one has the same whole part (llguidance 1.9.1). Bounds are moved
inward, never outward, until none of that matters.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any

from puna.errors import InvalidOption
from puna.sampling.dates import with_existing_dates

LARGEST_EXACT = 2**53
"""Up to here every whole number is a binary64 number."""

MOST_PLACES = 9
"""Digits after the point of a number with an exclusive bound."""

MOST_PLACES_AMONG_MULTIPLES = 5
"""The same where the schema has a `multipleOf` too: the compiler multiplies them within 32 bits."""

# Numbers that every reader takes for the same: 10^22 is the largest power of ten that is a binary64 number.
_EXACT_DIGITS = 15
_EXACT_EXPONENT = 22
_ROUNDING = Context(prec=800, rounding=ROUND_CEILING)
# What these hold are values, not schemas.
_VALUES = ("const", "enum", "default", "examples")


def narrowed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as the compiler is given it, which allows nothing that the schema itself does not.

    Raises:
        InvalidOption: `const` or `enum` holds a number beyond 2^53.
    """
    places = MOST_PLACES_AMONG_MULTIPLES if _has_multiple(schema) else MOST_PLACES
    rewritten: dict[str, Any] = _rewritten(schema, places)
    return rewritten


def _has_multiple(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        return "multipleOf" in schema or any(map(_has_multiple, schema.values()))
    return isinstance(schema, list) and any(map(_has_multiple, schema))


def _rewritten(schema: Any, places: int) -> Any:
    if isinstance(schema, list):
        return [_rewritten(part, places) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    for key in ("const", "enum"):
        _check_exact(key, schema.get(key))
    result = {key: value if key in _VALUES else _rewritten(value, places) for key, value in schema.items()}
    result = with_existing_dates(result)
    lower, upper = _lower(schema), _upper(schema)
    if lower is None and upper is None:
        return result
    if _only_whole(schema):
        return _bounded(result, lower and lower.on_grid(0), upper and upper.on_grid(0))
    if not any(bound and bound.needs_grid for bound in (lower, upper)):
        return result
    multiple = schema.get("multipleOf")
    if _is_number(multiple):
        places = _places(Decimal(repr(multiple)))
    else:
        places = min(places, max(0, _EXACT_DIGITS - max(bound.digits for bound in (lower, upper) if bound)))
        result["multipleOf"] = float(f"1e-{places}") if places else 1
    return _bounded(result, lower and lower.on_grid(places), upper and upper.on_grid(places))


def _check_exact(key: str, value: Any) -> None:
    """Bounded in depth by `puna.sampling.schema`."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            _check_exact(key, part)
    elif _is_number(value) and abs(value) > LARGEST_EXACT:
        raise InvalidOption(
            f"{key} of the JSON schema holds {json.dumps(value)[:40]}; numbers beyond 2^53 are not exact for "
            "every reader, so write it as a text"
        )


@dataclass(frozen=True, slots=True)
class _Bound:
    """A lower bound. An upper one is the lower one of the negated numbers.

    Attributes:
        exclusive: the value itself is not allowed.
    """

    value: Decimal
    exclusive: bool

    @property
    def digits(self) -> int:
        """Digits before the point."""
        return max(0, self.value.adjusted() + 1)

    @property
    def needs_grid(self) -> bool:
        """Whether the compiler, or a reader, could take it for another."""
        _, digits, exponent = self.value.normalize().as_tuple()
        return self.exclusive or len(digits) > _EXACT_DIGITS or -int(exponent) > _EXACT_EXPONENT

    def on_grid(self, places: int) -> "_Bound":
        """The least bound from this one on, of numbers of so many digits after the point.

        A negative one is exclusive where it can be whole: the compiler's inclusive ones refuse numbers whose
        digits are the beginning of the bound's (-0.9 of a minimum of -0.95).
        """
        unit = Decimal((0, (1,), -places))
        value = self.value.quantize(unit, context=_ROUNDING)
        first = value + unit if self.exclusive and value == self.value else value
        before = first - unit
        if value < 0 and places and before == before.to_integral_value():
            return _Bound(before, exclusive=True)
        return _Bound(first, exclusive=False)


def _lower(schema: Mapping[str, Any]) -> _Bound | None:
    return _tightest(schema, "minimum", "exclusiveMinimum", 1)


def _upper(schema: Mapping[str, Any]) -> _Bound | None:
    return _tightest(schema, "maximum", "exclusiveMaximum", -1)


def _tightest(schema: Mapping[str, Any], inclusive: str, exclusive: str, sign: int) -> _Bound | None:
    """The lower bound by two keywords of the numbers times `sign`; the second may be true, as in draft 4."""
    bounds = [
        _Bound(Decimal(repr(schema[key])) * sign, key == exclusive or schema.get(exclusive) is True)
        for key in (inclusive, exclusive)
        if _is_number(schema.get(key))
    ]
    return max(bounds, key=lambda bound: (bound.value, bound.exclusive), default=None)


def _bounded(schema: dict[str, Any], lower: _Bound | None, upper: _Bound | None) -> dict[str, Any]:
    """The schema with these bounds in the place of its own."""
    own = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
    result = {key: value for key, value in schema.items() if key not in own}
    if lower:
        result["exclusiveMinimum" if lower.exclusive else "minimum"] = _number(lower.value)
    if upper:
        result["exclusiveMaximum" if upper.exclusive else "maximum"] = -_number(upper.value)
    return result


def _number(bound: Decimal) -> int | float:
    """A lower bound as JSON has it; a whole one from the least on that is a binary64 number."""
    if bound != bound.to_integral_value():
        return float(bound)
    whole = int(bound)
    nearest = float(whole)
    return int(nearest if nearest >= whole else math.nextafter(nearest, math.inf))


def _only_whole(schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    return "integer" in kinds and "number" not in kinds


def _is_number(value: object) -> bool:
    """Whether it is a number that a binary64 can hold at least nearly."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _places(value: Decimal) -> int:
    return max(0, -int(value.normalize().as_tuple().exponent))
