"""Mistral's models, old and new.

[TOOL_CALLS] [{"name": "f", "arguments": {…}, "id": "…"}, …]
[TOOL_CALLS]f[ARGS]{…}[TOOL_CALLS]g[CALL_ID]…[ARGS]{…}
[THINK]…[/THINK]
"""

from puna.chat.parsers.answer import Format
from puna.chat.parsers.calls import NAME_LIMIT, Call, calls, json_value, make_call
from puna.chat.parsers.stream import Malformed, Steps, Stream, Tags

_ID, _ARGUMENTS = "[CALL_ID]", "[ARGS]"
_AFTER_NAME = Tags(_ID, _ARGUMENTS, "{")
_AFTER_ID = Tags(_ARGUMENTS)


def _body(stream: Stream) -> Steps[None]:
    yield from stream.skip_space()
    opening = yield from stream.accept("[", "{")
    if opening:
        yield from calls(stream, "[/TOOL_CALLS]", opening=opening)
    else:
        yield from _named(stream)


def _named(stream: Stream) -> Steps[None]:
    name, mark = yield from stream.take_until(_AFTER_NAME, NAME_LIMIT)
    id = ""
    if mark == _ID:
        id, mark = yield from stream.take_until(_AFTER_ID, NAME_LIMIT)
    if mark == _ARGUMENTS:
        yield from stream.skip_space()
        yield from stream.expect("{")
    if not name.strip():
        raise Malformed
    arguments = yield from json_value(stream)
    make_call(stream, Call(name.strip(), arguments, id.strip() or None))


FORMAT = Format(
    calls={"[TOOL_CALLS]": _body},
    marks=(_ID, _ARGUMENTS, "[/TOOL_CALLS]"),
    thinking=(("[THINK]",), "[/THINK]"),
    thinks_anywhere=True,
)
