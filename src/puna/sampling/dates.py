"""Dates that exist: what the compiler's `format` of dates lets through, and no calendar has.

It bounds days by their month, but takes February 29 of every year, and the year 0000, which RFC 3339 allows
and few readers do (Python's begin with 0001).
"""

from collections.abc import Mapping
from typing import Any

_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_BY_FOUR = "(?:0[48]|[2468][048]|[13579][26])"
_LEAP_YEAR = f"(?:[0-9]{{2}}{_BY_FOUR}|{_BY_FOUR}00)"

EXISTING = f"^(?:{_YEAR}-(?:0[13-9]|1[0-2]|02-(?:[01]|2[0-8]))|{_LEAP_YEAR}-02-29)"
"""The beginning of a text in the form of a date whose day exists."""


def with_existing_dates(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema, not those within it, whose dates are days of a calendar."""
    if schema.get("format") not in ("date", "date-time"):
        return {**schema}
    if "pattern" not in schema:
        return {**schema, "pattern": EXISTING}
    together = schema.get("allOf", [])
    return (
        {**schema, "allOf": [*together, {"pattern": EXISTING}]} if isinstance(together, list) else {**schema}
    )
