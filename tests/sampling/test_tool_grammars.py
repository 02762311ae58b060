"""Which calls a model may or must make, in each form that models write them."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest

from puna.engine.load import token_table
from puna.errors import InvalidOption
from puna.sampling.constraints import Constraints
from puna.sampling.grammar import Grammar, Thinking
from puna.sampling.parameters import SamplingParameters
from puna.sampling.sampler import Sampler
from puna.sampling.toolcalls import (
    HERMES,
    LLAMA3,
    LLAMA3_TAGGED,
    MISTRAL,
    MISTRAL_NAMED,
    ToolDeclaration,
    ToolFormat,
    tool_grammar,
)
from puna.tokenizer import Tokenizer

Accepts = Callable[..., bool]

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 10}, "unit": {"$ref": "#/$defs/unit"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"unit": {"enum": ["C", "F"]}},
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = [ToolDeclaration("get_weather", WEATHER), ToolDeclaration("now", NOTHING)]
PARIS = '{"city": "Paris", "unit": "C"}'

# The calls of get_weather and now, and both in one answer.
FORMS = {
    "hermes": (
        HERMES,
        f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}\n</tool_call>',
        '<tool_call>{"name": "now", "arguments": {}}</tool_call>',
        "{}\n{}",
    ),
    "llama": (
        LLAMA3,
        f'{{"name": "get_weather", "parameters": {PARIS}}}',
        '{"name":"now","parameters":{}}',
        None,
    ),
    "mistral": (
        MISTRAL,
        f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {PARIS}}}]',
        '[TOOL_CALLS][{"name": "now", "arguments": {}}]',
        None,
    ),
    "mistral named": (
        MISTRAL_NAMED,
        f"[TOOL_CALLS]get_weather[ARGS]{PARIS}",
        "[TOOL_CALLS]now[ARGS]{}",
        "{}{}",
    ),
    "tagged": (
        LLAMA3_TAGGED,
        f"<function=get_weather>{PARIS}</function>",
        "<function=now>{}</function>",
        "{}{}",
    ),
}
every_form = pytest.mark.parametrize("form, weather, now, both", FORMS.values(), ids=FORMS)


def grammar(choice: str, form: ToolFormat, **options: Any) -> Grammar:
    found = tool_grammar(TOOLS, choice, form, **options)
    assert found is not None
    return found


@every_form
def test_required_means_calls_and_nothing_else(
    accepts: Accepts, form: ToolFormat, weather: str, now: str, both: str | None
) -> None:
    required = grammar("required", form)
    assert accepts(required, weather)
    assert accepts(required, now)
    assert both is None or accepts(required, both.format(weather, now))
    for text in (
        "",
        "Hello",
        "Hello " + now,
        now + " bye",
        now[:-1],
        weather.replace("Paris", "A long name"),
    ):
        assert not accepts(required, text), text


@every_form
def test_a_named_function_is_called_once(
    accepts: Accepts, form: ToolFormat, weather: str, now: str, both: str | None
) -> None:
    named = grammar("get_weather", form)
    assert accepts(named, weather)
    assert not accepts(named, now)
    assert not accepts(named, weather + weather)
    assert not accepts(named, "")


@every_form
def test_auto_means_text_or_valid_calls(
    accepts: Accepts, form: ToolFormat, weather: str, now: str, both: str | None
) -> None:
    auto = grammar("auto", form)
    wrong = weather.replace('"city"', '"town"')
    for text in ("Hello", "Use < or { or [ as you\nlike", weather, now):
        assert accepts(auto, text), text
    if form.begin:
        assert accepts(auto, f"Let me see.\n{weather} Done.")
        assert not accepts(auto, f"Let me see.\n{wrong}")
    assert not accepts(auto, wrong)
    assert not accepts(auto, weather[:-1])
    assert both is None or accepts(auto, both.format(weather, now) + " Done.")


@every_form
def test_none_means_no_call(
    accepts: Accepts, form: ToolFormat, weather: str, now: str, both: str | None
) -> None:
    none = grammar("none", form)
    assert accepts(none, "Hello < there")
    assert accepts(none, "")
    assert not accepts(none, weather)
    assert not accepts(none, now)
    assert not form.begin or not accepts(none, "Hello " + now)


@every_form
def test_without_parallel_calls_there_is_at_most_one(
    accepts: Accepts, form: ToolFormat, weather: str, now: str, both: str | None
) -> None:
    for choice in ("auto", "required"):
        alone = grammar(choice, form, parallel=False)
        assert accepts(alone, weather)
        assert both is None or not accepts(alone, both.format(weather, now))


def test_lists_of_calls(accepts: Accepts) -> None:
    both = '[TOOL_CALLS][{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]'
    assert accepts(grammar("required", MISTRAL), both)
    assert not accepts(grammar("required", MISTRAL, parallel=False), both)


def test_calls_after_thoughts(accepts: Accepts) -> None:
    think = Thinking("<think>", "</think>")
    _, weather, now, _ = FORMS["hermes"]
    thoughts = f"<think>Maybe <tool_call> or {now[:20]}…</think>\n\n"
    for choice in ("auto", "required", "now"):
        assert accepts(grammar(choice, HERMES), thoughts + now, think)
        assert accepts(grammar(choice, HERMES), now, think)
    assert accepts(grammar("auto", HERMES), thoughts + "Hi", think)
    assert not accepts(grammar("required", HERMES), thoughts + "Hi", think)
    assert not accepts(grammar("auto", HERMES), thoughts + weather.replace("city", "town"), think)


def test_a_call_that_begins_with_a_control_token(tokenizer: Tokenizer) -> None:
    table = token_table(tokenizer)
    begin = next(id for id, piece in enumerate(tokenizer.pieces) if id > 300 and len(piece) > 3)
    constraints = Constraints(replace(table, special=[*table.special, begin]))
    form = ToolFormat(tokenizer.pieces[begin].decode(), "")
    body = tokenizer.encode('{"name": "now", "arguments": {}}', add_special=False)
    auto = constraints.start(grammar("auto", form))
    for token in tokenizer.encode("Hello", add_special=False):
        auto.advance(token, most=0)
    assert auto.mask()[begin]
    auto.advance(begin)
    assert not auto.mask()[min(tokenizer.end_ids)]
    for token in body:
        auto.advance(token, most=0)
    assert auto.mask()[min(tokenizer.end_ids)]
    assert not constraints.start(grammar("none", form)).mask()[begin]
    required = constraints.start(grammar("required", form)).mask()
    assert np.flatnonzero(required).tolist() == [begin]


@pytest.mark.parametrize("seed", range(12))
def test_sampled_calls_satisfy_the_parameters(
    constraints: Constraints, tokenizer: Tokenizer, seed: int
) -> None:
    constraint = constraints.start(grammar("required", HERMES, parallel=False))
    sampler = Sampler(SamplingParameters(temperature=1, top_k=0, top_p=1, seed=seed), tokenizer.vocab_size)
    rng = np.random.default_rng(seed)
    tokens: list[int] = []
    while not constraint.complete:
        token = sampler.sample(
            rng.normal(0, 1, tokenizer.vocab_size).astype(np.float32), constraint.mask()
        ).token
        tokens += [token, *constraint.advance(token)]
    text = tokenizer.decode(tokens)
    call = json.loads(text.removeprefix("<tool_call>").removesuffix("</tool_call>"))
    parameters = {tool.name: tool.parameters for tool in TOOLS}
    jsonschema.validate(call["arguments"], parameters[call["name"]])
    assert call.keys() == {"name", "arguments"}


# What is refused


@pytest.mark.parametrize(
    "tool",
    [
        None,
        [],
        "f",
        {},
        {"function": None},
        {"function": {}},
        {"function": {"name": ""}},
        {"function": {"name": "a b"}},
        {"function": {"name": 'x"}'}},
        {"function": {"name": "f\n"}},
        {"function": {"name": "x" * 10**6}},
        {"function": {"name": 5}},
        {"function": {"name": "f", "parameters": []}},
        {"function": {"name": "f", "parameters": "{}"}},
        {"function": {"name": "f", "parameters": {"type": "str"}}},
        {"function": {"name": "f", "parameters": {"type": ["object"]}}},
    ],
)
def test_declarations_that_are_none(tool: object) -> None:
    with pytest.raises(InvalidOption) as caught:
        ToolDeclaration.from_api(tool)
    assert len(str(caught.value)) < 200


def test_declarations_from_the_api() -> None:
    tool = {
        "type": "function",
        "function": {"name": "a.b-c:d/e_1", "description": "x", "parameters": NOTHING},
    }
    assert ToolDeclaration.from_api(tool) == ToolDeclaration("a.b-c:d/e_1", NOTHING)
    bare = ToolDeclaration.from_api({"function": {"name": "f", "parameters": None}})
    assert bare.parameters == {"type": "object"}


def _tools(count: int, **parameters: Any) -> list[ToolDeclaration]:
    return [ToolDeclaration(f"f{i}", {"type": "object", **parameters}) for i in range(count)]


REFUSED: dict[str, tuple[list[ToolDeclaration], str]] = {
    "10,000 tools": (_tools(10_000), "10000 tools"),
    "the same name": (_tools(1) * 2, "the name 'f0'"),
    "10 MB": (_tools(1, description="x" * 10**7), "bytes"),
    "many large ones": (_tools(200, description="x" * 10**4), "bytes"),
    "many properties": (_tools(100, properties={f"p{i}": {} for i in range(100)}), "properties"),
    "remote": (_tools(1, properties={"a": {"$ref": "http://example.com"}}), "points outside"),
    "multiples": (_tools(1, properties={"a": {"multipleOf": 10**9 + 7}}), "multipleOf"),
    "no JSON": (_tools(1, default={1, 2}), "no JSON"),
    "infinite": (_tools(1, minimum=float("inf")), "no JSON"),
}


@pytest.mark.parametrize("tools, reason", REFUSED.values(), ids=REFUSED)
def test_sets_of_tools_that_are_refused(tools: list[ToolDeclaration], reason: str) -> None:
    with pytest.raises(InvalidOption, match=reason):
        tool_grammar(tools, "auto", HERMES)


@pytest.mark.parametrize("pattern", ["[", "(?=x)"])
def test_parameters_that_the_compiler_refuses(constraints: Constraints, pattern: str) -> None:
    tools = _tools(1, properties={"a": {"type": "string", "pattern": pattern}}, required=["a"])
    with pytest.raises(InvalidOption, match="the set of tools is refused"):
        constraints.start(tool_grammar(tools, "required", HERMES) or Grammar.any_object())


def test_choices_that_no_tool_fits() -> None:
    with pytest.raises(InvalidOption, match="'other', which is none of the tools"):
        tool_grammar(TOOLS, "other", HERMES)
    with pytest.raises(InvalidOption, match="there are no tools"):
        tool_grammar([], "required", HERMES)
    assert tool_grammar([], "auto", HERMES) is None


def test_as_many_tools_as_are_let_in(constraints: Constraints, accepts: Accepts) -> None:
    many = tool_grammar(_tools(256, properties={"a": {"type": "integer"}}), "auto", HERMES)
    assert many is not None
    assert accepts(many, '<tool_call>{"name": "f255", "arguments": {"a": 1}}</tool_call>')


@every_form
def test_calls_or_an_answer_to_a_schema(
    accepts: Accepts, form: ToolFormat, weather: str, now: str, both: str | None
) -> None:
    either = grammar("auto", form, answer=Grammar.json_schema('{"const": {"sky": "blue"}}'))
    for text in ('{"sky": "blue"}', weather, now):
        assert accepts(either, text), text
    for text in ("", "Hello", '{"sky": "red"}', '{"sky": "blue"}' + now, now + '{"sky": "blue"}', now[:-1]):
        assert not accepts(either, text), text
    assert both is None or accepts(either, both.format(weather, now))
