"""Grammars from people who mean harm: refused, or compiled within the limits of a small child process."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from puna.errors import InvalidOption
from puna.sampling.grammar import Grammar
from puna.sampling.lark import diagnose
from puna.sampling.schema import MAX_BYTES, parse_schema

Make = Callable[[], Any]


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def _named(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(count)}}


REFUSED_SCHEMAS: dict[str, Make] = {
    "unknown type": lambda: {"type": "nope"},
    "itself": lambda: {"$ref": "#"},
    "each other": lambda: {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    },
    "missing definition": lambda: {"$ref": "#/$defs/none"},
    "remote": lambda: {"$ref": "https://example.com/schema.json"},
    "file": lambda: {"items": {"$ref": "file:///etc/passwd"}},
    "relative file": lambda: {"properties": {"a": {"$dynamicRef": "other.json#x"}}},
    "10,000 properties": lambda: _named(10_000),
    "depth 10,000": lambda: _nested(10_000),
    "depth 200": lambda: _nested(200),
    "minLength 10^9": lambda: {"type": "string", "minLength": 10**9},
    "minItems 10^9": lambda: {"type": "array", "minItems": 10**9},
    "minItems 1e400": lambda: '{"type": "array", "minItems": 1e400}',
    "minItems of 400 digits": lambda: {"type": "array", "minItems": 10**400},
    "more than most": lambda: {"type": "array", "minItems": 3, "maxItems": 2},
    "empty range": lambda: {"type": "integer", "minimum": 5, "maximum": 3},
    "empty enum": lambda: {"enum": []},
    "enum of 10^6": lambda: {"enum": list(range(10**6))},
    "enum of 50,000": lambda: {"enum": [str(i)[:3] for i in range(50_000)]},
    "10 MB": lambda: {"description": "x" * 10**7},
    "long constant": lambda: {"const": "x" * MAX_BYTES},
    "large multiple": lambda: {"type": "integer", "multipleOf": 9_999_999},
    "multiples of each other": lambda: {"allOf": [{"type": "integer", "multipleOf": n} for n in (997, 991)]},
    "bad pattern": lambda: {"type": "string", "pattern": "["},
    "look-ahead": lambda: {"type": "string", "pattern": "(?=x)"},
    "back-reference": lambda: {"type": "string", "pattern": r"(a)\1"},
    "half a character": lambda: '{"const": "\\ud800"}',
    "not a number": lambda: '{"minimum": NaN}',
    "infinity": lambda: '{"type": "number", "minimum": -Infinity}',
    "list": lambda: "[]",
    "number": lambda: "3",
    "true": lambda: "true",
    "text": lambda: '"object"',
    "nothing": lambda: "",
    "half": lambda: '{"type": ',
    "brackets": lambda: "[" * 100_000,
    "huge numbers": lambda: {"type": "integer", "minimum": -(10**300), "maximum": 10**308},
    "both types": lambda: {"type": ["string", "nope"]},
    "exponential": lambda: {
        "allOf": [{"anyOf": [{"properties": {f"a{i}": {"const": j}}} for j in range(2)]} for i in range(20)]
    },
}

COMPILED_SCHEMAS: dict[str, Make] = {
    "maxItems 10^9": lambda: {"type": "array", "maxItems": 10**9},
    "maxLength 10^9": lambda: {"type": "string", "maxLength": 10**9},
    "minLength 10^6": lambda: {"type": "string", "minLength": 10**6},
    "2,000 properties": lambda: _named(2000),
    "depth 45": lambda: _nested(45),
    "enum of 10,000": lambda: {"enum": [f"v{i:x}" for i in range(10_000)]},
    "evil pattern": lambda: {"type": "string", "pattern": "^(a+)+b$"},
    "long pattern": lambda: {"type": "string", "pattern": "(?:a{1000}){1000}"},
    "multiple": lambda: {"type": "integer", "multipleOf": 9973},
    "1,000 alternatives": lambda: {"anyOf": [{"type": "array", "items": {"const": i}} for i in range(1000)]},
    "1,000 definitions": lambda: {
        "$defs": {f"d{i}": {"properties": {"n": {"$ref": f"#/$defs/d{i * 7 % 1000}"}}} for i in range(1000)},
        "anyOf": [{"$ref": f"#/$defs/d{i}"} for i in range(1000)],
    },
    "recursive": lambda: {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
    "open": dict,
    "unknown keywords": lambda: {"if": {}, "then": {}, "not": {}, "contains": {}, "foo": 1, "format": "nope"},
    "large numbers": lambda: {"type": "integer", "minimum": -(10**18), "maximum": 10**18},
}

REGEXES = {
    "nested quantifiers": "(a+)+b",
    "same alternatives": "(a|a)*$",
    "repeated repetition": "(?:a{1000}){1000}",
    "thrice": "((a{100}){100}){100}",
    "look-ahead": "(?=x)",
    "back-reference": r"(a)\1",
    "open class": "[",
    "1 MB": "a" * 10**6,
    "64 KB": "a" * 2**16,
    "8,000 alternatives": "|".join(f"{i:x}b" for i in range(8000)),
    "letters of all scripts": r"\p{L}{1,1000}(\p{Greek}|\p{Cyrillic})*",
    "far back": ".*a.{30}b.{30}c",
    "deep": "(" * 20_000 + "a" + ")" * 20_000,
    "nothing": r"[^\s\S]",
}
OTHERS: dict[str, tuple[str, str]] = {
    "GBNF, deep": ("gbnf", "root ::= " + "(" * 3000 + '"a"' + ")" * 3000),
    "GBNF, long chain": ("gbnf", "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1}" for i in range(3000))),
    "GBNF, repetition": ("gbnf", 'root ::= (("a" "b"){1000}){1000}'),
    "GBNF, never ends": ("gbnf", 'root ::= "a" root'),
    "Lark, deep": ("lark", "start: " + "(" * 5000 + '"a"' + ")" * 5000),
    "Lark, 6,000 alternatives": ("lark", "start: " + "|".join(f'"{i:x}"' for i in range(6000))),
    "Lark, ambiguous": ("lark", 'start: a\na: a a | "x" | '),
    "Lark, automata": ("lark", "start: T\nT: /((a|b)*a(a|b){25})*/ & ~/((a|b)*b(a|b){26})*/"),
    "Lark, embedded": ("lark", 'start: %json {"allOf": [{"multipleOf": 9997}, {"multipleOf": 9991}]}'),
    "Lark, substrings": (
        "lark",
        "start: %regex {" + json.dumps("substring_chars") + f': "{"ab" * 20_000}"' + "}",
    ),
}


@pytest.mark.parametrize("make", REFUSED_SCHEMAS.values(), ids=REFUSED_SCHEMAS)
def test_schemas_that_are_refused(make: Make, constraints: Any) -> None:
    with pytest.raises(InvalidOption) as caught:
        constraints.start(Grammar.json_schema(make()))
    text = str(caught.value)
    assert len(text) < 300
    assert text.isprintable()


def test_remote_references_are_named_in_the_refusal() -> None:
    with pytest.raises(InvalidOption, match=r"\$ref 'https://example.com/a' points outside"):
        parse_schema('{"items": [{"$ref": "https://example.com/a"}]}')


def test_a_property_may_have_the_name_of_a_keyword(accepts: Callable[..., bool]) -> None:
    schema = {
        "type": "object",
        "properties": {
            name: {"type": "integer"} for name in ("$ref", "minItems", "multipleOf", "properties")
        },
        "additionalProperties": False,
    }
    assert accepts(Grammar.json_schema(schema), '{"$ref": 1, "multipleOf": 9999999}')


CHILD = """
import json, resource, sys
from puna.errors import InvalidOption
from puna.sampling.constraints import Constraints, TokenTable
from puna.sampling.grammar import Grammar
resource.setrlimit(resource.RLIMIT_AS, (1536 * 2**20, 1536 * 2**20))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
pieces = [b"<end>"] + [bytes([i]) for i in range(256)]
constraints = Constraints(TokenTable(pieces, [0], [0], lambda text: [1 + byte for byte in text.encode()]))
for name, kind, source in json.load(sys.stdin):
    try:
        constraint = constraints.start(Grammar(kind, source))
        for _ in range(50):
            allowed = constraint.mask().nonzero()[0]
            if constraint.complete or not allowed.any():
                break
            constraint.advance(int(allowed[-1]))
        print(name, "compiled", sep=": ")
    except InvalidOption as error:
        print(name, "refused", str(error).replace(chr(10), " "), sep=": ")
"""


def _in_a_child(cases: list[tuple[str, str, str]]) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(cases), capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split(": ") for line in done.stdout.splitlines()]
    return {name: result for name, result, *_ in lines}


def test_everything_else_stays_within_a_minute_and_a_gigabyte() -> None:
    """All of them one after the other, in one process, with 50 steps of each."""
    cases = [(name, "json_schema", json.dumps(make())) for name, make in COMPILED_SCHEMAS.items()]
    cases += [(name, "regex", pattern) for name, pattern in REGEXES.items()]
    cases += [(name, kind, source) for name, (kind, source) in OTHERS.items()]
    results = _in_a_child(cases)
    assert results.keys() == {name for name, _, _ in cases}
    refused = {name for name, result in results.items() if result == "refused"}
    assert not refused & COMPILED_SCHEMAS.keys()
    assert refused >= {
        "look-ahead",
        "back-reference",
        "open class",
        "1 MB",
        "deep",
        "nothing",
        "Lark, embedded",
    }


@pytest.mark.parametrize("kind", ["regex", "gbnf", "lark"])
def test_sources_that_are_too_long_or_no_text(kind: Any) -> None:
    with pytest.raises(InvalidOption, match="longer than"):
        Grammar(kind, "x" * 70_000)
    with pytest.raises(InvalidOption, match="surrogate"):
        Grammar(kind, 'root ::= "\ud800"')


def test_a_refusal_is_one_short_line() -> None:
    with pytest.raises(InvalidOption) as caught:
        diagnose(Grammar.regex("x" * 3000 + "[\n\x1b[31m"))
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()
