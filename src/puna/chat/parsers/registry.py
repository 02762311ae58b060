"""Which parser reads which model's answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from puna.chat.parsers.answer import Format, Parser, format_parser
from puna.chat.parsers.formats.generic import TemplateTags, format_of
from puna.chat.parsers.stream import Schema, Stream

_FORMATS = "puna.chat.parsers.formats"


@dataclass(frozen=True, slots=True)
class Support:
    """What a parser can do.

    Attributes:
        tools: it reads calls.
        thinking: it reads thinking, and the model is said to think.
        tokens: the tags it reads; where they are control tokens, the decoder has to leave them in the text.
        thinking_tags: the tags that open thinking, and the one that closes it; None where it reads no tags.
        final: of answers that are messages, the header of the one for the user; else empty.
    """

    tools: bool
    thinking: bool
    tokens: tuple[str, ...]
    thinking_tags: tuple[tuple[str, ...], str] | None = None
    final: str = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A format's module, the name of its `Format` there ("" for a module with steps), and what it can do."""

    module: str
    format: str = "FORMAT"
    tools: bool = True
    thinking: bool = False


_QWEN3_THINKING = _Entry("qwen3", "THINKING", thinking=True)
_QWEN35 = _Entry("qwen3_coder", "THINKING", thinking=True)
_GLM = _Entry("glm", "THINKING", thinking=True)
_DEEPSEEK = _Entry("deepseek", thinking=True)
_MISTRAL = _Entry("mistral")
_LLAMA = _Entry("llama3")
_OLMO3_THINKING = _Entry("olmo3", "THINKING", tools=False, thinking=True)
_GEMMA4 = _Entry("gemma_calls", "GEMMA4", thinking=True)
_PARSERS: Mapping[str, _Entry] = {
    "cogito": _DEEPSEEK,
    "cohere": _Entry("cohere", thinking=True),
    "command-r": _Entry("command_r"),
    "deepseek-r1": _DEEPSEEK,
    "deepseek3": _DEEPSEEK,
    "deepseek3.1": _DEEPSEEK,
    "functiongemma": _Entry("gemma_calls", "FUNCTION_GEMMA"),
    "gemma3": _Entry("gemma3"),
    "gemma4": _GEMMA4,
    "gemma4-large": _GEMMA4,
    "gemma4-no-thinking": _Entry("gemma_calls", "GEMMA4"),
    "gemma4-small": _GEMMA4,
    "glimmer": _Entry("glimmer", "", thinking=True),
    "glm-4.6": _GLM,
    "glm-4.7": _GLM,
    "glm-ocr": _Entry("glm"),
    "granite": _Entry("granite", thinking=True),
    "harmony": _Entry("harmony", "", thinking=True),
    "laguna": _GLM,
    "lfm2": _Entry("lfm2"),
    "lfm2-thinking": _Entry("lfm2", "THINKING", thinking=True),
    "llama3": _LLAMA,
    "llama4": _LLAMA,
    "ministral": _MISTRAL,
    "mistral": _MISTRAL,
    "nemotron-3-nano": _QWEN35,
    "nemotron-3.5-nano": _QWEN35,
    "olmo3": _Entry("olmo3"),
    "olmo3-32b-think": _OLMO3_THINKING,
    "olmo3-think": _OLMO3_THINKING,
    "ornith": _QWEN35,
    "passthrough": _Entry("plain", "PASSTHROUGH", tools=False),
    "poolside-v1": _GLM,
    "qwen3": _Entry("qwen3"),
    "qwen3-coder": _Entry("qwen3_coder"),
    "qwen3-thinking": _QWEN3_THINKING,
    "qwen3-vl-instruct": _Entry("qwen3"),
    "qwen3-vl-thinking": _QWEN3_THINKING,
    "qwen3.5": _QWEN35,
    "thinking": _Entry("plain", "THINKING", tools=False, thinking=True),
}


def names() -> list[str]:
    """The names of the parsers."""
    return sorted(_PARSERS)


def support(name: str) -> Support | None:
    """What the parser of this name can do; None if there is none."""
    entry = _PARSERS.get(name)
    if entry is None:
        return None
    if not entry.format:
        module = _module(entry)
        return Support(entry.tools, entry.thinking, module.TOKENS, final=module.FINAL)
    format = _format(entry)
    return Support(entry.tools, entry.thinking, format.tokens(), format.thinking)


def parser_for(name: str, *, tools: Mapping[str, Schema], thinking_open: bool) -> Parser | None:
    """A parser for one answer.

    Args:
        name: as models state it.
        tools: the declared tools' names, each with the JSON schema of its parameters. Without any, nothing
            is read as a call.
        thinking_open: the prompt ends inside thinking.

    Returns:
        None if there is no parser of this name.
    """
    entry = _PARSERS.get(name)
    if entry is None:
        return None
    declared = tools if entry.tools else {}
    if entry.format:
        return format_parser(_format(entry), declared, thinking_open=thinking_open)
    stream = Stream(declared, trims=False)
    return Parser(stream, _module(entry).steps(stream, thinking_open))


def generic_parser(tags: TemplateTags, *, tools: Mapping[str, Schema], thinking_open: bool) -> Parser:
    """A parser for one answer of a model of which only the tags are known; otherwise as `parser_for`."""
    return format_parser(format_of(tags), tools, thinking_open=thinking_open)


def _format(entry: _Entry) -> Format:
    found: Format = getattr(_module(entry), entry.format)
    return found


def _module(entry: _Entry) -> Any:
    return import_module(f"{_FORMATS}.{entry.module}")
