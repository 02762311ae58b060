"""Qwen 3 Coder, Qwen 3.5 and Nemotron 3: calls in tags, whose values have types in the tool's schema only.

    <tool_call>
    <function=get_weather>
    <parameter=city>
    Paris
    </parameter>
    </function>
    </tool_call>

Values are not escaped. A closing tag inside a value is told from the value's end by what follows it. The
models sometimes leave out `<tool_call>`.
"""

from typing import Any

from puna.chat.parsers.answer import Format
from puna.chat.parsers.calls import NAME_LIMIT, declared
from puna.chat.parsers.elements import element
from puna.chat.parsers.stream import Malformed, Steps, Stream, Tags
from puna.chat.parsers.values import parameter_schema, typed

_FUNCTION, _END_FUNCTION = "<function=", "</function>"
_PARAMETER, _END_PARAMETER = "<parameter=", "</parameter>"
_END = "</tool_call>"
_CLOSE = Tags(">")


def _body(stream: Stream) -> Steps[None]:
    mark = _FUNCTION
    yield from stream.skip_space()
    yield from stream.expect(_FUNCTION)
    while mark == _FUNCTION:
        yield from _function(stream)
        yield from stream.skip_space()
        mark = yield from stream.accept(_FUNCTION, _END)


def _bare_function(stream: Stream) -> Steps[None]:
    yield from _function(stream)
    yield from stream.skip_space()
    yield from stream.accept(_END)


def _function(stream: Stream) -> Steps[None]:
    name, _ = yield from stream.take_until(_CLOSE, NAME_LIMIT)
    name = declared(name.strip(), stream.tools)
    if not name:
        raise Malformed
    arguments: dict[str, Any] = {}
    yield from stream.skip_space()
    mark = yield from stream.expect(_PARAMETER, _END_FUNCTION)
    while mark == _PARAMETER:
        key, _ = yield from stream.take_until(_CLOSE, NAME_LIMIT)
        value, mark = yield from element(stream, _END_PARAMETER, _PARAMETER, _END_FUNCTION)
        value = value.removeprefix("\n").removesuffix("\n")
        arguments[key.strip()] = typed(value, parameter_schema(stream.tools.get(name), key.strip()))
    if mark != _END_FUNCTION:
        raise Malformed
    stream.call(name, arguments)


_CALLS = {"<tool_call>": _body, _FUNCTION: _bare_function}
_MARKS = (_END, _END_FUNCTION, _PARAMETER, _END_PARAMETER)
FORMAT = Format(calls=_CALLS, marks=_MARKS)
THINKING = Format(calls=_CALLS, marks=_MARKS, thinking=(("<think>",), "</think>"), calls_while_thinking=True)
