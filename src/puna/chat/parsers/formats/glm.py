"""GLM 4.5 and later, and Laguna, which writes the same.

    <tool_call>get_weather
    <arg_key>city</arg_key>
    <arg_value>Paris</arg_value>
    </tool_call>

Values are not escaped and have types in the tool's schema only; strings are written without quotes.
"""

from collections.abc import Mapping
from typing import Any

from puna.chat.parsers.answer import Format
from puna.chat.parsers.calls import NAME_LIMIT, declared
from puna.chat.parsers.elements import element
from puna.chat.parsers.stream import Malformed, Steps, Stream, Tags
from puna.chat.parsers.values import parameter_schema, typed

_END = "</tool_call>"
_KEY, _END_KEY = "<arg_key>", "</arg_key>"
_VALUE, _END_VALUE = "<arg_value>", "</arg_value>"
_AFTER_NAME = Tags(_KEY, _END)
_AFTER_KEY = Tags(_END_KEY)


def _body(stream: Stream) -> Steps[None]:
    written, mark = yield from stream.take_until(_AFTER_NAME, NAME_LIMIT)
    name = declared(written.strip(), stream.tools)
    if not name or any(char in name for char in "<>{}\n"):
        raise Malformed
    parameters = stream.tools.get(name)
    arguments: dict[str, Any] = {}
    while mark == _KEY:
        key, _ = yield from stream.take_until(_AFTER_KEY, NAME_LIMIT)
        yield from stream.skip_space()
        yield from stream.expect(_VALUE)
        value, mark = yield from element(stream, _END_VALUE, _KEY, _END)
        arguments[key.strip()] = typed(value, parameter_schema(parameters, key.strip()))
    if mark != _END and not _complete(arguments, parameters):
        raise Malformed
    stream.call(name, arguments)


def _complete(arguments: Mapping[str, Any], parameters: object) -> bool:
    """Whether a call that the answer's end cut off has all it needs."""
    required = parameters.get("required", ()) if isinstance(parameters, Mapping) else None
    return isinstance(required, list | tuple) and all(name in arguments for name in required)


_MARKS = (_END, _KEY, _END_KEY, _VALUE, _END_VALUE)
FORMAT = Format(calls={"<tool_call>": _body}, marks=_MARKS)
THINKING = Format(
    calls={"<tool_call>": _body}, marks=_MARKS, thinking=(("<think>",), "</think>"), calls_while_thinking=True
)
