"""Dates in answers are days that exist, by Python's calendar."""

import calendar
import json

import pytest
from tests.sampling.conftest import Accepts

from puna.sampling.grammar import Grammar
from puna.sampling.schema import parse_schema

YEARS = (0, 1, 4, 10, 99, 100, 400, 1000, 1900, 1999, 2000, 2023, 2024, 2100, 9996, 9999)


def exists(year: int, month: int, day: int) -> bool:
    return year > 0 and 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]


@pytest.mark.parametrize("ending", ["", "T12:30:00Z"], ids=["date", "date-time"])
def test_dates_are_days_that_exist(ending: str, accepts: Accepts) -> None:
    grammar = Grammar.json_schema({"type": "string", "format": "date-time" if ending else "date"})
    for year in YEARS:
        for month in (0, 1, 2, 3, 4, 9, 10, 11, 12, 13):
            for day in (0, 1, 9, 10, 19, 20, 28, 29, 30, 31, 32):
                text = f"{year:04}-{month:02}-{day:02}{ending}"
                assert accepts(grammar, json.dumps(text)) == exists(year, month, day), text


def test_every_leap_year_has_its_day(accepts: Accepts) -> None:
    grammar = Grammar.json_schema({"type": "string", "format": "date"})
    for year in {*range(1, 10000, 7), *range(100, 10000, 100)}:
        assert accepts(grammar, f'"{year:04}-02-29"') == calendar.isleap(year), year


def test_a_pattern_of_the_schema_holds_as_well(accepts: Accepts) -> None:
    plain = {"type": "string", "format": "date", "pattern": "^20"}
    for schema in (plain, {**plain, "allOf": [{"pattern": "-02-"}]}):
        grammar = Grammar.json_schema(schema)
        assert accepts(grammar, '"2024-02-29"')
        for refused in ("2023-02-29", "1996-02-29", "2024-02-30"):
            assert not accepts(grammar, f'"{refused}"')


def test_a_property_called_format_is_left_alone(accepts: Accepts) -> None:
    schema = {"type": "object", "properties": {"format": {"const": "date"}}, "required": ["format"]}
    assert parse_schema(json.dumps(schema))
    assert accepts(Grammar.json_schema(schema), '{"format": "date"}')
