"""Which parser, which tags and which form of calls a model has, by what is known of it."""

from typing import Any

import pytest

from puna.chat.parsers.formats.generic import TemplateTags
from puna.chat.style import BARE, style_of
from puna.sampling.toolcalls import HERMES, LLAMA3, MISTRAL, MISTRAL_NAMED
from puna.template.go import parse

QWEN = '<tool_call>{"name", "arguments"} {% if x %}<think></think>{% endif %}'
GO_TAGS = (
    "{{ range .Messages }}{{ if .Thinking }}<reason>{{ .Thinking }}</reason>{{ end }}"
    '{{ if .ToolCalls }}CALL {"name"}{{ end }}{{ end }}{{ .Tools }}'
)


def described(**facts: Any) -> tuple[str | None, TemplateTags]:
    template = facts.pop("template", None)
    given = {"stated": None, "chat_template": None, "architecture": "llama", **facts}
    style = style_of(given.pop("architecture"), template=parse(template) if template else None, **given)
    return style.parser, style.tags


NONE = TemplateTags()


@pytest.mark.parametrize(
    ("facts", "parser", "tags"),
    [
        ({"stated": "mistral", "chat_template": QWEN, "template": GO_TAGS}, "mistral", NONE),
        ({"stated": "no-such", "chat_template": QWEN, "template": GO_TAGS}, "qwen3-thinking", NONE),
        ({"architecture": "gptoss"}, "harmony", NONE),
        ({"template": GO_TAGS}, None, TemplateTags(("<reason>", "</reason>"), "CALL")),
        (
            {"template": GO_TAGS, "chat_template": "<think></think>"},
            None,
            TemplateTags(("<reason>", "</reason>"), "CALL"),
        ),
        (
            {"template": "{{ .Prompt }}", "chat_template": "<think></think>"},
            None,
            TemplateTags(("<think>", "</think>")),
        ),
        ({"chat_template": "{{ c.split('</think>') }}"}, None, TemplateTags(("<think>", "</think>"))),
        ({"chat_template": "{{ tools | tojson }}"}, None, TemplateTags(None, "{")),
        ({"template": "{{ .Prompt }}"}, None, NONE),
        ({}, None, NONE),
    ],
)
def test_the_first_that_is_known_counts(facts: Any, parser: str | None, tags: TemplateTags) -> None:
    assert described(**facts) == (parser, tags)


@pytest.mark.parametrize(
    ("parser", "calls"),
    [
        ("qwen3", HERMES),
        ("llama3", LLAMA3),
        ("mistral", MISTRAL),
        ("ministral", MISTRAL_NAMED),
        ("harmony", None),
        ("olmo3-think", None),
    ],
)
def test_the_form_of_calls_where_a_grammar_can_say_it(parser: str, calls: object) -> None:
    assert style_of("llama", stated=parser, template=None, chat_template=None).calls == calls


def test_tags_of_templates_tell_the_form_of_calls_too() -> None:
    text = GO_TAGS.replace("CALL", "<tool_call>")
    assert style_of("llama", stated=None, template=parse(text), chat_template=None).calls == HERMES
    assert style_of("llama", stated=None, template=parse(GO_TAGS), chat_template=None).calls is None
    assert BARE.begin == BARE.end == ""


@pytest.mark.parametrize(
    ("prompt", "tag"),
    [
        ("…assistant\n<think>\n", "<think>"),
        ("…assistant\n<think>", "<think>"),
        ("…<think>\n\n</think>\n\n", ""),
        ("…assistant\n", ""),
        ("", ""),
    ],
)
def test_a_prompt_may_end_inside_thinking(prompt: str, tag: str) -> None:
    style = style_of("llama", stated="qwen3-thinking", template=None, chat_template=None)
    assert style.open_tag(prompt) == tag


def test_a_model_that_does_not_think_has_no_open_thinking() -> None:
    assert style_of("llama", stated=None, template=None, chat_template=None).open_tag("<think>") == ""


def test_the_parser_s_tags_are_known() -> None:
    style = style_of("llama", stated="mistral", template=None, chat_template=None)
    assert {"[TOOL_CALLS]", "[THINK]", "[/THINK]"} <= {*style.tokens}
    assert (style.openings, style.closing) == (("[THINK]",), "[/THINK]")
    assert style_of("gptoss", stated=None, template=None, chat_template=None).final.endswith("<|message|>")
