"""Numbers near the bounds of their schema, in every spelling, judged by jsonschema after parsing."""

import json
import math
import random
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import jsonschema
import pytest
from tests.sampling.conftest import Accepts

from puna.errors import InvalidOption
from puna.sampling.grammar import Grammar
from puna.sampling.narrowing import narrowed
from puna.sampling.schema import parse_schema

Schema = dict[str, Any]

NEAR: list[tuple[Schema, str, str]] = [
    (
        {"type": "number", "exclusiveMinimum": -30.0, "exclusiveMaximum": -23.0},
        "-23 -23.0 -23.00 -2.3e1 -23.00000000000000000001 -30 -30.0 -29.99999999999999999999 -22.9 -31",
        "-23.000001 -23.5 -24 -29.9 -29.99 -29.999999999",
    ),
    ({"type": "number", "exclusiveMinimum": 29, "maximum": 29.5}, "29 29.0 29.00 29.51", "29.1 29.01 29.5"),
    (
        {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
        "0 0.0 -0 0.00000000000000000001",
        "0.1 0.01",
    ),
    ({"type": "number", "minimum": -0.5, "exclusiveMaximum": 0}, "0 -0 -0.0 -0.51", "-0.5 -0.1 -0.01"),
    (
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "0 1 1.0 0.0 1.00",
        "0.5 0.9 0.99 0.05",
    ),
    ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, f"0.{'9' * 20}", f"0.{'9' * 9}"),
    ({"type": "number", "exclusiveMinimum": 0}, "0 -0 0.0 -1 0.00", "0.1 1 1000000 0.00001"),
    ({"type": "number", "minimum": 0, "maximum": 0.9999999999999999}, "1 1.0 1.00", "0 0.5 0.9 0.99"),
    ({"type": "number", "minimum": 3, "exclusiveMinimum": True}, "3 3.0 2", "3.1 4"),
    ({"type": "number", "minimum": 5, "exclusiveMinimum": 3}, "3 4 4.9", "5 6"),
    ({"type": "number", "minimum": 3, "exclusiveMinimum": 3}, "3 3.0", "4"),
    ({"exclusiveMaximum": 3}, "3 3.0 4", '2 2.9 -7 "text" null'),
    ({"type": "number", "minimum": 1e-30, "maximum": 1}, "0 0.0", "0.5 0.001 1"),
    ({"type": "integer", "exclusiveMinimum": 1.5, "exclusiveMaximum": 4.0}, "1 4 1.0 2.0", "2 3"),
    ({"type": ["integer", "null"], "exclusiveMinimum": 3}, "3 -4", "4 null"),
    ({"type": "integer", "minimum": 2**53 + 1}, f"{2**53} {2**53 + 1}", f"{2**53 + 2}"),
    ({"type": "integer", "exclusiveMaximum": -(2**53)}, f"{-(2**53)} -5", f"{-(2**53) - 2}"),
    ({"type": "number", "multipleOf": 0.5, "exclusiveMinimum": 0}, "0 0.0 0.25 -0.5", "0.5 1 1.5"),
    ({"type": "number", "multipleOf": 3, "exclusiveMinimum": 3}, "3 4 0", "6 9"),
    ({"allOf": [{"type": "number", "exclusiveMinimum": 3}, {"exclusiveMaximum": 4}]}, "3 4", "3.5 3.1"),
    ({"allOf": [{"type": "number", "exclusiveMinimum": 3}, {"multipleOf": 5}]}, "3 4 3.5", "5 10"),
    ({"allOf": [{"type": "integer"}, {"exclusiveMinimum": 3}]}, "3 3.5", "4"),
    ({"anyOf": [{"type": "number", "exclusiveMinimum": 3}, {"type": "null"}]}, "3", "4 null"),
    ({"$defs": {"a": {"type": "number", "exclusiveMinimum": 3}}, "$ref": "#/$defs/a"}, "3", "4"),
    ({"items": {"type": "number", "exclusiveMinimum": 3}, "type": "array"}, "[3] [3.0]", "[4] []"),
    ({"prefixItems": [{"type": "number", "exclusiveMinimum": 3}], "type": "array"}, "[3]", "[4]"),
]


@pytest.mark.parametrize("schema, refused, accepted", NEAR, ids=[json.dumps(case[0])[:80] for case in NEAR])
def test_texts_near_a_bound(schema: Schema, refused: str, accepted: str, accepts: Accepts) -> None:
    grammar = Grammar.json_schema(schema)
    assert [text for text in refused.split() if accepts(grammar, text)] == []
    assert [text for text in accepted.split() if not accepts(grammar, text)] == []


def _bound(draw: random.Random) -> float | int:
    whole = draw.choice([0, 1, 29, -23, draw.randrange(-2000, 2000), draw.randrange(-(10**6), 10**6)])
    return draw.choice(
        [whole, float(whole), whole + 0.5, round(draw.uniform(-50, 50), draw.randrange(4)), draw.random()]
    )


def _schema(draw: random.Random) -> Schema:
    low = _bound(draw)
    high = draw.choice([low + 1, low + 7, low + 0.25, math.nextafter(low, math.inf), low + 1000.25])
    lower = {draw.choice(["minimum", "exclusiveMinimum"]): low}
    upper = {draw.choice(["maximum", "exclusiveMaximum"]): high}
    kind = draw.choice(["number", "number", "integer"])
    more = draw.choice([{}, {}, {}, {"multipleOf": draw.choice([0.5, 0.25, 3, 2])}])
    return {"type": kind, **draw.choice([lower, upper, lower | upper]), **more}


def _near(bounds: list[float | int], draw: random.Random) -> Iterator[float | int]:
    for bound in bounds:
        yield bound
        yield from (math.nextafter(bound, way) for way in (math.inf, -math.inf))
        yield from (
            math.floor(bound),
            math.ceil(bound),
            round(bound + draw.uniform(-2, 2), draw.randrange(4)),
        )
        yield from (bound + 0.000001, bound - 0.000001, -bound)


def _spellings(number: float | int) -> Iterator[str]:
    plain = f"{Decimal(repr(number)):f}"
    pointed = plain if "." in plain else f"{plain}.0"
    yield from (plain, pointed, f"{pointed}0", f"{pointed}{'0' * 25}1", f"{number:e}", repr(number))
    head, last = pointed[:-1], int(pointed[-1])
    if last:
        yield f"{head}{last - 1}{'9' * 25}"


def _check(seed: int, count: int, accepts: Accepts) -> int:
    draw = random.Random(seed)
    accepted = 0
    for _ in range(count):
        schema = _schema(draw)
        validator = jsonschema.Draft202012Validator(schema)
        bounds = [value for key, value in schema.items() if key not in ("type", "multipleOf")]
        texts = {text for number in _near(bounds, draw) for text in _spellings(number)}
        grammar = Grammar.json_schema(schema)
        try:
            allowed = [text for text in texts if accepts(grammar, text)]
        except InvalidOption:
            continue
        for text in allowed:
            assert validator.is_valid(json.loads(text)), (schema, text)
        accepted += len(allowed)
    return accepted


def test_what_is_let_through_is_valid_to_who_reads_it(accepts: Accepts) -> None:
    assert _check(1, 150, accepts) > 400


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_more_bounds(seed: int, accepts: Accepts) -> None:
    assert _check(seed, 400, accepts) > 1200


def test_values_and_names_are_left_alone() -> None:
    value = {"exclusiveMinimum": 3}
    schema: Schema = {
        "const": value,
        "enum": [value],
        "default": value,
        "examples": [value],
        "properties": {"exclusiveMinimum": {"type": "string"}, "minimum": {"const": 1}},
    }
    assert narrowed(schema) == schema
    plain = {"type": "number", "minimum": 0.1, "maximum": 99.5}
    assert narrowed(plain) == plain


def test_the_answer_to_a_lark_grammar_keeps_to_bounds_too(accepts: Accepts) -> None:
    grammar = Grammar.lark(
        'start: "x" number\nnumber: %json {"type": "number", "exclusiveMinimum": 29, "maximum": 29.5}'
    )
    assert accepts(grammar, "x29.5")
    assert not accepts(grammar, "x29")


@pytest.mark.parametrize("value", [{"const": 2**53 + 1}, {"enum": [1, {"a": [-(10**30)]}]}, {"const": 1e300}])
def test_constants_that_no_reader_has_exactly_are_refused(value: Schema, accepts: Accepts) -> None:
    grammar = Grammar.json_schema({"properties": {"id": value}})
    with pytest.raises(InvalidOption, match=r"numbers beyond 2\^53 are not exact"):
        accepts(grammar, "{}")
    assert accepts(Grammar.json_schema({"const": 2**53}), str(2**53))


def test_multiples_that_the_compiler_would_get_wrong_are_refused() -> None:
    for first, second in ((100000, 100000), (1e-7, 997)):
        with pytest.raises(InvalidOption, match="too far apart, or too large"):
            parse_schema(json.dumps({"allOf": [{"multipleOf": first}, {"multipleOf": second}]}))
    parse_schema(json.dumps({"properties": {"a": {"multipleOf": 100000}, "b": {"multipleOf": 100000}}}))
    parse_schema(json.dumps({"allOf": [{"multipleOf": 0.01}, {"multipleOf": 50}]}))
