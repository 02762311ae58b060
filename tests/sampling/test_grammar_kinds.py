"""Each kind of grammar accepts what it describes and nothing else; what is wrong is refused in a sentence."""

import json
import random
import re
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.schema_corpus import drawn_instance, schemas

from puna.errors import InvalidOption
from puna.sampling.grammar import Grammar
from puna.sampling.lark import diagnose

Accepts = Callable[..., bool]

# JSON


@pytest.mark.parametrize(
    "text, accepted",
    [
        ("{}", True),
        ('{"a":1,"b":[true,null,{"c":"\\n\\u001f"}]}', True),
        ('{ "a": 1.5e3, "b": -0 }', True),
        ('{\n    "a": [\n        1\n    ]\n}', True),
        ("[]", False),
        ("1", False),
        ('{"a":01}', False),
        ('{"a":1,}', False),
        ("{'a':1}", False),
        ('{"a":"\t"}', False),
        ('{"a"', False),
        ("{}x", False),
        ("{\n\n\n}", False),
        ('{"a":   1}', False),
        (" {}", False),
    ],
)
def test_any_object_is_json_with_little_white_space(accepts: Accepts, text: str, accepted: bool) -> None:
    assert accepts(Grammar.any_object(), text) is accepted


def test_white_space_is_bounded(accepts: Accepts) -> None:
    grammar = Grammar.json_schema({"type": "array", "items": {"type": "integer"}})
    assert accepts(grammar, "[\n" + " " * 32 + "1]")
    assert accepts(grammar, "[\r\n\t\t1]")
    assert not accepts(grammar, "[\n" + " " * 33 + "1]")
    assert not accepts(grammar, "[\n \t1]")
    assert not accepts(grammar, "[" + "\n" * 2 + "1]")


@pytest.mark.parametrize("format", ["yaml", 5, True, [], ["json"], [{"type": "object"}], "{}", 1.5])
def test_formats_that_are_none(format: object) -> None:
    with pytest.raises(InvalidOption, match=r'invalid format: .*; expected "json" or a JSON schema object'):
        Grammar.from_format(format)


def test_formats() -> None:
    assert Grammar.from_format(None) is None
    assert Grammar.from_format("") is None
    assert Grammar.from_format("json") == Grammar.any_object()
    assert Grammar.from_format({"type": "null"}) == Grammar.json_schema('{"type":"null"}')


def test_options_of_the_compiler_in_a_schema_have_no_effect(accepts: Accepts) -> None:
    schema = {
        "type": "array",
        "x-guidance": {"item_separator": ";", "whitespace_pattern": "x*", "lenient": False},
    }
    grammar = Grammar.json_schema({**schema, "items": {"not": {}}})
    assert accepts(grammar, "[1, 2]")
    assert not accepts(grammar, "[1;2]")
    assert not accepts(grammar, "[x1]")


@pytest.mark.parametrize(
    "count, seed", [(150, 7), pytest.param(3000, 8, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_what_a_schema_allows_is_accepted(accepts: Accepts, count: int, seed: int) -> None:
    draw = random.Random(seed)
    tried = 0
    for schema in schemas(count, seed):
        validator = jsonschema.Draft202012Validator(schema)
        for _ in range(3):
            instance = drawn_instance(schema, draw)
            validator.validate(instance)
            text = json.dumps(instance, ensure_ascii=False, indent=draw.choice([None, 2]))
            assert accepts(Grammar.json_schema(schema), text), (schema, text)
            tried += 1
    assert tried == 3 * count


# Regular expressions


@given(
    st.from_regex(r"[a-c]{1,3}|[0-9]+x?", fullmatch=True),
    st.sampled_from([r"[a-c]+", r"(a|bc)*", r"\d{1,3}", r"[0-9]+x?", r"a.*", r"[^b]+", "a/b|c", r"(?i)A{2}"]),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_regex_accepts_what_it_matches_as_a_whole(accepts: Accepts, text: str, pattern: str) -> None:
    assert accepts(Grammar.regex(pattern), text) is (re.fullmatch(pattern, text) is not None)


@pytest.mark.parametrize("pattern", ["(?=x)", r"(a)\1", "[", "(", "a{", "*", "(?P<n>"])
def test_patterns_that_are_none(pattern: str) -> None:
    with pytest.raises(InvalidOption, match="the regex grammar is refused"):
        diagnose(Grammar.regex(pattern))


def test_a_pattern_that_ends_inside_an_escape(accepts: Accepts) -> None:
    for pattern in ("\\", "ab\\", "\\\\\\"):
        with pytest.raises(InvalidOption, match="backslash"):
            Grammar.regex(pattern)
    assert accepts(Grammar.regex(r"\\"), "\\")


# GBNF


@pytest.mark.parametrize(
    "grammar, yes, no",
    [
        ('root ::= "yes" | "no"', ["yes", "no"], ["y", "yesno", ""]),
        ("root ::= [a-c]+ [^a-c]", ["abd", "c!"], ["ab", "d"]),
        ('root ::= item{2,3}\nitem ::= "- " [a-z ]+ "\\n"', ["- a\n- b c\n"], ["- a\n", "- a\n" * 4]),
        ('root ::= ("a" |\n  "b")? # comment\n', ["", "a", "b"], ["ab"]),
        ('root ::= "\\u00e9\\x41" [\\u4e00-\\u9fff] [\\U0001F600-\\U0001F64F]', ["éA漢😀"], ["éAa😀"]),
        ('root ::= "\\"\\\\/\\t" "[" [\\]/]', ['"\\/\t[]', '"\\/\t[/'], ['"\\/\t[x']),
        ('root ::= "(" root ")" | "x"', ["x", "((x))"], ["(x", "()"]),
        ('root ::= long-name\nlong-name ::= "a"*', ["", "aaa"], ["b"]),
    ],
)
def test_gbnf(accepts: Accepts, grammar: str, yes: list[str], no: list[str]) -> None:
    assert [text for text in yes if not accepts(Grammar.gbnf(grammar), text)] == []
    assert [text for text in no if accepts(Grammar.gbnf(grammar), text)] == []


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "x"',
        'root ::= start\nstart ::= "x"',
        '%llguidance {}\nroot ::= "x"',
        "root ::= x",
        "root ::= [a-",
        'root ::= "\\',
        "root ::= " + "(" * 5000,
        "root ::=" + " (" * 900 + ' "a"' + " )" * 900,
        'other ::= "x"',
        "::=",
        "hello",
    ],
)
def test_gbnf_that_is_none(constraints: Any, grammar: str) -> None:
    with pytest.raises(InvalidOption, match=r"GBNF|gbnf"):
        constraints.start(Grammar.gbnf(grammar))


# Lark and choices


def test_lark(accepts: Accepts) -> None:
    grammar = Grammar.lark('start: "n=" NUMBER | %json {"enum": ["a", 1]}\nNUMBER: /[0-9]+/')
    assert accepts(grammar, "n=12")
    assert accepts(grammar, '"a"')
    assert not accepts(grammar, "n=")


@pytest.mark.parametrize("text", ["start: x", 'start: "a', "begin: /a/", 'start: @other "x"'])
def test_lark_that_is_none(constraints: Any, text: str) -> None:
    with pytest.raises(InvalidOption, match="the lark grammar is refused"):
        constraints.start(Grammar.lark(text))


def test_schemas_inside_lark_meet_the_same_limits() -> None:
    with pytest.raises(InvalidOption, match="multipleOf"):
        Grammar.lark('start: %json {"type": "integer", "multipleOf": 9999999}')
    with pytest.raises(InvalidOption, match="no JSON"):
        Grammar.lark('start: %json {"type": ')
    with pytest.raises(InvalidOption, match="object"):
        Grammar.lark("start: %json [1]")


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), min_size=1, max_size=6
    )
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_choices_are_taken_literally(accepts: Accepts, texts: list[str]) -> None:
    grammar = Grammar.choice(texts)
    assert all(accepts(grammar, text) for text in texts)
    assert accepts(grammar, texts[0] + "!") is (texts[0] + "!" in texts)


@pytest.mark.parametrize("texts", [[], [""], ["a", ""], ["x"] * 10_001, ["y" * 300_000]])
def test_choices_that_are_none(texts: list[str]) -> None:
    with pytest.raises(InvalidOption, match="choices"):
        Grammar.choice(texts)


def test_a_kind_that_is_none() -> None:
    with pytest.raises(InvalidOption, match="unknown kind of grammar 'xml'"):
        Grammar("xml", "x")  # type: ignore[arg-type]  # what a caller without types may pass


def test_diagnosis_needs_no_vocabulary() -> None:
    assert diagnose(Grammar.any_object()) == ()
    (warning,) = diagnose(Grammar.json_schema({"not": {"type": "null"}}))
    assert "not" in warning
    with pytest.raises(InvalidOption, match="the JSON schema is refused: Invalid type: nope"):
        diagnose(Grammar.json_schema({"type": "nope"}))


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar.regex("a|b"),
        Grammar.choice(["x", "é"]),
        Grammar.gbnf('root ::= "a"'),
        Grammar.lark('start: "a"'),
        Grammar.json_schema({"b": 1, "a": None}),
        Grammar.any_object(),
    ],
)
def test_an_object_of_the_apis(grammar: Grammar) -> None:
    assert Grammar.from_document(grammar.document) == grammar
