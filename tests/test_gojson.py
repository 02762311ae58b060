"""JSON in Go's spelling. The expected texts are what Go's `json.Marshal` gives for these values."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna import gojson


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (7, "7"),
        (1e6, "1000000"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (123456789012345680000.0, "123456789012345680000"),
        (0.8, "0.8"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (1.5e-9, "1.5e-9"),
        (-0.0, "-0"),
        ("<a> & b", '"\\u003ca\\u003e \\u0026 b"'),
        ("\u2028\u2029", '"\\u2028\\u2029"'),
        ('é\t"\\\x01', '"é\\t\\"\\\\\\u0001"'),
        ("\ud800", '"\ufffd"'),
        ({"b": [1, ()], "a": {}}, '{"a":{},"b":[1,[]]}'),
    ],
)
def test_values_as_go_writes_them(value: object, text: str) -> None:
    assert gojson.encode(value) == text


def test_the_order_of_a_struct_is_kept() -> None:
    assert gojson.document({"b": 1, "a": 2}, sort_keys=False) == b'{"b":1,"a":2}\n'


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_what_json_cannot_hold(value: float) -> None:
    with pytest.raises(ValueError, match="no JSON form"):
        gojson.encode(value)


@pytest.mark.parametrize("value", [{1: 2}, {"a": {2}}, object()])
def test_what_is_no_json_type(value: object) -> None:
    with pytest.raises(TypeError):
        gojson.encode(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_keeps_its_value(value: float) -> None:
    assert float(gojson.encode(value)) == value


_TEXT = st.text(st.characters(codec="utf-8"))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(_TEXT, inner),
    max_leaves=20,
)


@given(_JSON)
def test_the_text_means_the_value(value: object) -> None:
    assert json.loads(gojson.encode(value)) == value
