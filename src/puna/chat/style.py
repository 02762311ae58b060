"""How a model writes its answers: thinking, calls, content, and which parser tells them apart."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from puna.chat.parsers.answer import Parser, format_parser
from puna.chat.parsers.detect import parser_for_family
from puna.chat.parsers.formats.generic import TemplateTags, format_of
from puna.chat.parsers.registry import generic_parser, parser_for, support
from puna.chat.parsers.stream import Schema
from puna.sampling.toolcalls import HERMES, LLAMA3, MISTRAL, MISTRAL_NAMED, JsonBody, ToolFormat
from puna.template.go import Template
from puna.template.go.tags import DEFAULT_TOOL_TAG, thinking_tags, tool_call_tag

BARE = ToolFormat("", "", JsonBody())
"""A call as nothing but JSON: what any model can be kept to, and the generic parser reads."""

_BY_PARSER = {
    "qwen3": HERMES,
    "qwen3-thinking": HERMES,
    "qwen3-vl-instruct": HERMES,
    "qwen3-vl-thinking": HERMES,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "ministral": MISTRAL_NAMED,
}
_BY_TAG = {"<tool_call>": HERMES, "[TOOL_CALLS]": MISTRAL}
_THINK = ("<think>", "</think>")
# Only says that there are <think> tags: a template's own tags say more.
_LAST_RESORT = "thinking"


@dataclass(frozen=True, slots=True)
class Style:
    """How a model writes.

    Attributes:
        parser: the name of its parser; None where only the tags are known.
        tags: those of its templates, where it has no parser.
        openings: the tags that open thinking.
        closing: the tag that closes it; empty for a model that does not think in tags.
        calls: how it writes calls, as far as a grammar can say it; None where that is unknown.
        tokens: the tags that the parser reads.
        final: of answers that are messages, the header of the one for the user; else empty.
    """

    parser: str | None
    tags: TemplateTags
    openings: tuple[str, ...] = ()
    closing: str = ""
    calls: ToolFormat | None = None
    tokens: tuple[str, ...] = ()
    final: str = ""

    @property
    def call_tag(self) -> str | None:
        """The text that begins a call, if any is known; empty for calls in bare JSON."""
        if self.calls is not None:
            return self.calls.begin
        tag = self.tags.tool
        return "" if tag in ("{", "[") else tag

    def reader(self, tools: Mapping[str, Schema], *, thinking_open: bool, bare_calls: bool = False) -> Parser:
        """A parser for one answer.

        Args:
            tools: the schemas of the declared tools' parameters, by name.
            thinking_open: the prompt ends inside thinking.
            bare_calls: the answer is kept to calls in the form `BARE`.
        """
        if bare_calls:
            thinking = (self.openings[0], self.closing) if self.closing else None
            # White space around calls is the grammar's.
            format = replace(format_of(TemplateTags(thinking, DEFAULT_TOOL_TAG)), trims=True)
            return format_parser(format, tools, thinking_open=thinking_open)
        named = parser_for(self.parser, tools=tools, thinking_open=thinking_open) if self.parser else None
        return named or generic_parser(self.tags, tools=tools, thinking_open=thinking_open)

    def open_tag(self, prompt: str) -> str:
        """The tag of open thinking with which a prompt, or its last piece, ends; empty where none does."""
        end = prompt.rstrip()
        return next((tag for tag in self.openings if end.endswith(tag)), "")


def style_of(
    architecture: str, *, stated: str | None, template: Template | None, chat_template: str | None
) -> Style:
    """How a model writes, as far as its files tell.

    Args:
        stated: the parser that its config names; an unknown one counts as none.
        template: its prompt template in Go's language, if it is prompted with one.
        chat_template: the file's template in Jinja, if there is one, whether it is used or not.
    """
    if stated and support(stated):
        return _named(stated)
    family = parser_for_family(architecture, chat_template)
    if family and family != _LAST_RESORT:
        return _named(family)
    if template is not None and (tags := _tags_of(template)) != TemplateTags():
        return _tagged(tags)
    text = chat_template or ""
    thinking = _THINK if _THINK[1] in text else None
    return _tagged(TemplateTags(thinking, DEFAULT_TOOL_TAG if "tools" in text else None))


def _named(parser: str) -> Style:
    known = support(parser)
    if known is None:
        return Style(None, TemplateTags())
    openings, closing = known.thinking_tags or ((), "")
    return Style(
        parser,
        TemplateTags(),
        openings,
        closing,
        _BY_PARSER.get(parser) if known.tools else None,
        known.tokens,
        known.final,
    )


def _tags_of(template: Template) -> TemplateTags:
    calls = {"tools", "toolcalls"} & template.vars()
    return TemplateTags(thinking_tags(template), tool_call_tag(template) if calls else None)


def _tagged(tags: TemplateTags) -> Style:
    opening, closing = tags.thinking or ("", "")
    shown = (opening, closing, tags.tool or "")
    return Style(
        None,
        tags,
        (opening,) if opening else (),
        closing,
        _BY_TAG.get(tags.tool or ""),
        tuple(text for text in shown if text),
    )
