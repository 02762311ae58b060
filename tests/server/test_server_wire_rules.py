"""Bodies are read as Go's `encoding/json` reads them, within bounds."""

from typing import Any

import msgspec
import pytest

from puna.server.errors import Refused
from puna.server.http import MAX_DEPTH, MAX_VALUES, decode_json


class Part(msgspec.Struct):
    role: str = "user"
    content: str = ""


class Body(msgspec.Struct):
    model: str = ""
    stream: bool | None = None
    from_: str = msgspec.field(default="", name="from")
    messages: list[Part] = []
    by_name: dict[str, Part] = {}
    part: Part | None = None
    options: dict[str, Any] = {}
    format: Any = None
    ids: list[int] = []
    heat: float = 0.0


def read(text: str | bytes) -> Body:
    return decode_json(text.encode() if isinstance(text, str) else text, Body)


def refusal(text: str | bytes) -> str:
    with pytest.raises(Refused) as caught:
        read(text)
    assert caught.value.status == 400
    return str(caught.value)


@pytest.mark.parametrize("key", ["model", "Model", "MODEL", "mOdEl"])
def test_keys_match_in_any_case(key: str) -> None:
    assert read(f'{{"{key}": "x"}}').model == "x"


def test_of_equal_keys_the_last_counts_whatever_its_case() -> None:
    assert read('{"model": "a", "MODEL": "b"}').model == "b"
    assert read('{"MODEL": "b", "model": "a"}').model == "a"
    assert read('{"model": "a", "model": "c"}').model == "c"


def test_keys_of_nested_structs_match_too() -> None:
    body = read('{"Messages": [{"Role": "system", "CONTENT": "c"}], "by_name": {"A": {"ROLE": "x"}},'
                ' "PART": {"rOLE": "y"}, "From": "z"}')  # fmt: skip
    assert body.messages == [Part("system", "c")]
    assert body.by_name == {"A": Part("x")}
    assert body.part == Part("y")
    assert body.from_ == "z"


def test_free_form_values_stay_as_they_are() -> None:
    schema = {"Properties": {"Model": {"TYPE": "string"}, "model": None}, "type": "Object"}
    body = decode_json(msgspec.json.encode({"FORMAT": schema, "Options": {"Num_Ctx": 1, "x": None}}), Body)
    assert body.format == schema
    assert body.options == {"Num_Ctx": 1, "x": None}


def test_null_leaves_a_field_as_it_is() -> None:
    body = read('{"model": null, "stream": null, "messages": null, "part": null, "heat": null}')
    assert body == Body()
    assert read('{"messages": [{"role": null, "content": "x"}]}').messages == [Part("user", "x")]


def test_unknown_keys_are_passed_over() -> None:
    assert read('{"model": "x", "keep": {"deep": [1]}, "__class__": 1}').model == "x"


def test_a_whole_number_may_stand_for_a_fraction() -> None:
    assert read('{"heat": 1}').heat == 1.0


@pytest.mark.parametrize("text", ["", " ", "\r\n\t"])
def test_an_empty_body_is_missing(text: str) -> None:
    assert refusal(text) == "missing request body"


@pytest.mark.parametrize(
    "text",
    [
        "{b}",
        "{'model': 1}",
        '{"model": "a"} {"model": "b"}',
        '{"model": "a"}x',
        '{"model": NaN}',
        '{"heat": Infinity}',
        '{"heat": 1e400}',
        '{"model": "a\nb"}',
        '{"model": "\\ud800"}',
        '{"model": "a",}',
        '{"model": "a"',
        "\ufeff{}",
        "nul",
        '{"ids": [1' + "0" * 5000 + "]}",
    ],
)
def test_what_is_no_json_is_refused(text: str) -> None:
    assert refusal(text).startswith("invalid ")


def test_invalid_utf8_is_refused() -> None:
    assert refusal(b'{"model": "\xff"}') == "invalid JSON: it is not UTF-8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model": 1}', "invalid request: Expected str, got int - at $.model"),
        ('{"messages": [{"role": []}]}', "invalid request: Expected str, got array - at $.messages[0].role"),
        ('{"stream": "true"}', "invalid request: Expected bool | null, got str - at $.stream"),
        ('{"ids": [1.5]}', "invalid request: Expected int, got float - at $.ids[0]"),
        ("[]", "invalid request: Expected object, got array"),
        ('"model"', "invalid request: Expected object, got str"),
    ],
)
def test_a_wrong_type_is_named_with_its_place(text: str, message: str) -> None:
    assert refusal(text) == message


def nested(levels: int) -> str:
    return '{"format": ' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


def test_depth_is_bounded() -> None:
    assert read(nested(MAX_DEPTH)).format is not None
    for levels in (MAX_DEPTH + 1, 5000, 100_000):
        assert refusal(nested(levels)) == f"the request body is nested more than {MAX_DEPTH} levels deep"
    assert "nested" in refusal('{"a":' * 100_000)


def test_the_number_of_values_is_bounded() -> None:
    assert "values" in refusal('{"format": [' + "[]," * MAX_VALUES + "[]]}")


def test_a_long_text_is_no_number_of_values() -> None:
    assert len(read('{"model": "' + "x" * 3_000_000 + '"}').model) == 3_000_000
