"""Glimmer: messages to oneself, to the user and to tools, whose arguments are elements.

 to=self<|message|>…<|eom|><|start|>assistant to=user<|message|>…<|eot|>
 to=f<|message|><atem:function_calls>
<atem:invoke name="f">
<atem:parameter name="city">Paris</atem:parameter>
</atem:invoke>
</atem:function_calls><|eot|>
"""

from typing import Any

from puna.chat.events import Content, Thinking
from puna.chat.parsers.calls import NAME_LIMIT
from puna.chat.parsers.elements import element
from puna.chat.parsers.messages import Messages, conversation
from puna.chat.parsers.stream import Body, Kind, Malformed, Steps, Stream, Tags
from puna.chat.parsers.values import parameter_schema, typed

_START = "<|start|>"
_CALLS, _END_CALLS = "<atem:function_calls>", "</atem:function_calls>"
_INVOKE, _END_INVOKE = '<atem:invoke name="', "</atem:invoke>"
_PARAMETER, _END_PARAMETER = '<atem:parameter name="', "</atem:parameter>"
_CLOSE = Tags('">')


def steps(stream: Stream, thinking_open: bool) -> Steps[None]:
    """The steps of an answer; `thinking_open` if the prompt ends inside a message to oneself."""
    return conversation(stream, _MESSAGES, Thinking if thinking_open else None)


def _route(header: str, stream: Stream) -> Kind | Body:
    recipient = header.rpartition("to=")[2].strip() if "to=" in header else ""
    if recipient == "self":
        return Thinking
    # The header may be wrong where the body is a call all the same.
    return _body if stream.tools else Content


def _body(stream: Stream) -> Steps[None]:
    yield from stream.skip_space()
    yield from stream.expect(_CALLS)
    yield from stream.skip_space()
    mark = yield from stream.expect(_INVOKE)
    while mark == _INVOKE:
        yield from _invoke(stream)
        yield from stream.skip_space()
        mark = yield from stream.accept(_INVOKE, _END_CALLS)


def _invoke(stream: Stream) -> Steps[None]:
    written, _ = yield from stream.take_until(_CLOSE, NAME_LIMIT)
    name = _tool(written.replace("<|message|>", ""), stream)
    arguments: dict[str, Any] = {}
    yield from stream.skip_space()
    mark = yield from stream.expect(_PARAMETER, _END_INVOKE)
    while mark == _PARAMETER:
        key, _ = yield from stream.take_until(_CLOSE, NAME_LIMIT)
        value, mark = yield from element(stream, _END_PARAMETER, _PARAMETER, _END_INVOKE)
        arguments[key] = typed(value, parameter_schema(stream.tools[name], key))
    if mark != _END_INVOKE:
        raise Malformed
    stream.call(name, arguments)


def _tool(written: str, stream: Stream) -> str:
    """The declared tool; the prompt offers `f` as `f.f` too, for it gives every tool a namespace.

    Raises:
        Malformed: there is none.
    """
    space, _, name = written.partition(".")
    for tool in (written, name if space == name else ""):
        if tool in stream.tools:
            return tool
    raise Malformed


_MESSAGES = Messages(
    begin=(_START,),
    resume=("to=",),
    message="<|message|>",
    ends=("<|eom|>", "<|eot|>"),
    route=_route,
    shows_headers=False,
)
TOKENS = _MESSAGES.tokens()
FINAL = " to=user<|message|>"
