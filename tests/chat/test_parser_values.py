"""Values in JSON, in Python's notation, and typed by a schema."""

import ast
import json
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.chat.parsers.values import Literals, literal, load_json, parameter_schema, typed

BOUND = settings(max_examples=200, deadline=None)


def python_values() -> st.SearchStrategy[Any]:
    """Values whose Python notation JSON has a counterpart for."""
    leaves = (
        st.none()
        | st.booleans()
        | st.integers(-(2**62), 2**62)
        | st.floats(allow_nan=False, allow_infinity=False).filter(
            lambda x: not x.is_integer() and abs(x) < 1e300
        )
        | st.text(st.characters(exclude_categories=["Cs"]))
    )
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text("abc ", max_size=3), inner, max_size=4)
        ),
    )


@given(python_values())
@BOUND
def test_literals_are_read_as_python_reads_them(value: Any) -> None:
    text = repr(value)
    assert literal(text) == ast.literal_eval(text) == value


@given(st.text("{}[]()'\",:=\\ aT1.-\n", max_size=12))
@BOUND
def test_what_both_read_is_the_same(text: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return
    if isinstance(expected, str | int) and text.strip() == repr(expected):
        assert literal(text) == expected


@given(st.text(max_size=40))
@BOUND
def test_no_text_breaks_the_readers(text: str) -> None:
    for read in (literal, load_json, lambda t: Literals(t, "<escape>").object()):
        try:
            json.dumps(read(text), allow_nan=False)
        except ValueError:
            continue


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[1",
        "['a' b",
        "{",
        '{"a"}',
        '{"a": }',
        "{a: 1",
        "'abc",
        '"a\\"',
        "1, 2",
        "[1]]",
        "(1",
        "[" * 200,
    ],
)
def test_bad_literals_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        literal(text)


@pytest.mark.parametrize(
    "text", ["", "{", "[1,]", "NaN", "-Infinity", "1e999", "{'a': 1}", "9" * 5000, "[" * 100_000, '[1] "a"']
)
def test_bad_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        load_json(text)


def test_depth_has_a_limit() -> None:
    assert load_json("[" * 60 + "]" * 60) is not None
    with pytest.raises(ValueError):
        load_json("[" * 70 + "]" * 70)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"\\ud83e\\udd99"', "🦙"),
        ('"\\ud83e"', "\ufffd"),
        ('{"\\udd99": 1}', {"\ufffd": 1}),
        ("18446744073709551615", 18446744073709551615),
        ("18446744073709551616", 18446744073709551616.0),
        ("-9223372036854775809", -9223372036854775809.0),
        ('"a\nb"', "a\nb"),
    ],
)
def test_json_values_can_be_written_again(text: str, value: object) -> None:
    found = load_json(text)
    assert found == value
    assert type(found) is type(value)
    json.dumps(found, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("null", {"type": "string"}, None),
        ("NULL", None, None),
        ("5", None, "5"),
        ("5", {}, "5"),
        ("5", {"type": "string"}, "5"),
        ("5", {"type": "integer"}, 5),
        (" 5 ", {"type": "integer"}, 5),
        ("5.0", {"type": "integer"}, "5.0"),
        ("5.0", {"type": "number"}, 5),
        ("5.5", {"type": "number"}, 5.5),
        ("1e400", {"type": "number"}, "1e400"),
        ("1e300", {"type": "number"}, 1e300),
        ("1" * 25, {"type": "integer"}, 1.1111111111111111e24),
        ("٣", {"type": "integer"}, "٣"),
        ("1_000", {"type": "integer"}, "1_000"),
        ("true", {"type": "boolean"}, True),
        ("FALSE", {"type": "boolean"}, False),
        ("1", {"type": "boolean"}, "1"),
        ("[1]", {"type": "array"}, [1]),
        ("(1, 'a')", {"type": "array"}, [1, "a"]),
        ("{}", {"type": "array"}, "{}"),
        ("{'a': True}", {"type": "object"}, {"a": True}),
        ('{"a": ', {"type": "object"}, '{"a": '),
        ("7", {"type": ["string", "integer"]}, 7),
        ("seven", {"type": ["string", "integer"]}, "seven"),
        ("7", {"anyOf": [{"type": "null"}, {"type": "number"}]}, 7),
        ("7", {"oneOf": [{"anyOf": [{"type": "integer"}]}]}, 7),
        ("7", {"type": 3, "anyOf": "integer"}, "7"),
        ("7", "integer", "7"),
        (" a ", {"type": "string"}, " a "),
    ],
)
def test_values_take_their_types_from_the_schema(text: str, schema: object, value: object) -> None:
    found = typed(text, schema)
    assert found == value
    assert type(found) is type(value)


def test_a_schema_that_nests_without_end_is_given_up() -> None:
    schema: dict[str, Any] = {}
    schema["anyOf"] = [schema, {"type": "integer"}]
    assert typed("7", schema) == 7


@pytest.mark.parametrize("parameters", [None, 1, [], {}, {"properties": []}, {"properties": {"b": {}}}])
def test_parameters_that_are_not_declared_have_no_schema(parameters: object) -> None:
    assert parameter_schema(parameters, "a") is None
