"""Models of which only the tags are known, read from their prompt template.

A call is a declared tool's name, and a JSON object with its arguments. The object may name the tool itself
(`{"name": f, "arguments": {…}}`, whatever the first key is called, at any depth), or be the value of a key
that is the tool's name (`{f: {…}}`), or follow the name (`f {…}`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from puna.chat.parsers.answer import Format
from puna.chat.parsers.balanced import JSON, group
from puna.chat.parsers.calls import Call, as_arguments, make_call
from puna.chat.parsers.stream import Malformed, Schema, Steps, Stream, Tags
from puna.chat.parsers.values import load_json

HEAD_LIMIT = 512
_BRACKETS = ("{", "[")
_ARGUMENT_KEYS = ("arguments", "parameters")
# What stands between calls and after them, in the templates that are in use.
_BETWEEN = (
    *("]", ")", ",", ";", "```", "</tool_call>", "</function>", "</function_call>", "</tool_calls>"),
    *("[/TOOL_CALLS]", "<|/tool_call|>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
    *("<|tool▁call▁end|>", "<|tool▁calls▁end|>", "<|END_ACTION|>", "<|tool_call_end|>"),
)


@dataclass(frozen=True, slots=True)
class TemplateTags:
    """The tags that a prompt template tells.

    Attributes:
        thinking: the tags around thinking, None if the model does not think.
        tool: what stands before a call; `{` or `[` are seen only at the beginning. None if it calls no tools.
    """

    thinking: tuple[str, str] | None = None
    tool: str | None = None


def format_of(tags: TemplateTags) -> Format:
    """The format with these tags."""
    opening, closing = tags.thinking or ("", "")
    thinking = ((opening,), closing) if opening and closing else None
    if not tags.tool:
        return Format(thinking=thinking, trims=False)
    steps = {tags.tool: partial(_body, tags.tool)}
    if tags.tool in _BRACKETS:
        return Format(leading=steps, thinking=thinking, trims=False)
    return Format(calls=steps, thinking=thinking, trims=False)


def _body(tag: str, stream: Stream) -> Steps[None]:
    in_place = tag in _BRACKETS
    head = ""
    if tag != "{":
        head = yield from _head(stream, tag, in_place)
    while True:
        text = yield from group(stream, "{", JSON)
        try:
            make_call(stream, find_call(load_json(text), head, stream.tools))
        except ValueError:
            raise Malformed from None
        yield from _closing(stream)
        if stream.ended:
            return
        head = yield from _head(stream, tag, in_place)


def _head(stream: Stream, tag: str, in_place: bool) -> Steps[str]:
    """What stands before an object, which is opened. Raises: Malformed."""
    if in_place:
        yield from stream.skip_space()
        yield from stream.expect("{")
        return ""
    tags = Tags("{", tag)
    head, mark = yield from stream.take_until(tags, HEAD_LIMIT)
    while mark != "{":
        if head.strip():
            stream.spill(keep=mark)
        head, mark = yield from stream.take_until(tags, HEAD_LIMIT)
    return head


def _closing(stream: Stream) -> Steps[None]:
    mark = "]"
    while mark:
        yield from stream.skip_space()
        mark = yield from stream.accept(*_BETWEEN)
    stream.forget()


def find_call(value: Any, head: str, tools: Mapping[str, Schema]) -> Call | None:
    """The call of a declared tool that a JSON value makes, after the text `head`; None if it makes none."""
    described = _described(value, tools)
    if described:
        return described
    name = _first_name(head, tools)
    return Call(name, value) if name and isinstance(value, dict) else None


def _described(value: Any, tools: Mapping[str, Schema]) -> Call | None:
    """The call that the value, or one inside it, describes."""
    inner = value if isinstance(value, list) else []
    if isinstance(value, dict):
        names = [text for text in value.values() if isinstance(text, str) and text in tools]
        stated = [as_arguments(value[key]) for key in _ARGUMENT_KEYS if key in value]
        if names and stated and stated[0] is not None:
            return Call(names[0], stated[0])
        for key, under in value.items():
            if key in tools and isinstance(under, dict):
                return Call(key, under)
        inner = list(value.values())
    return next((found for item in inner if (found := _described(item, tools))), None)


def _first_name(text: str, tools: Mapping[str, Schema]) -> str:
    """The declared name that begins first in the text, the longest where several begin there."""
    places = [(place, -len(name), name) for name in tools if name and (place := text.find(name)) >= 0]
    return min(places)[2] if places else ""
