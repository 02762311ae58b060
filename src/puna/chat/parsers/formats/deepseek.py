"""DeepSeek R1, V3 and V3.1, and Cogito.

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f
```json
{…}
```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{…}<｜tool▁call▁end｜><｜tool▁calls▁end｜>
"""

from puna.chat.parsers.answer import Format
from puna.chat.parsers.calls import NAME_LIMIT, Call, json_value, make_call
from puna.chat.parsers.stream import Malformed, Steps, Stream, Tags

_BEGIN, _END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _END_CALL = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_SEPARATOR = "<｜tool▁sep｜>"
_FENCE = "```"
_AFTER_KIND = Tags(_SEPARATOR)
_AFTER_NAME = Tags(_FENCE, "{", "\n")


def _body(stream: Stream) -> Steps[None]:
    yield from stream.skip_space()
    yield from stream.expect(_CALL)
    yield from _single(stream)


def _single(stream: Stream) -> Steps[None]:
    mark = _CALL
    while mark == _CALL:
        yield from _call(stream)
        yield from stream.skip_space()
        mark = yield from stream.accept(_CALL, _END)


def _call(stream: Stream) -> Steps[None]:
    head, _ = yield from stream.take_until(_AFTER_KIND, NAME_LIMIT)
    yield from stream.skip_space()
    if (yield from stream.accept("{")):
        name = head
    else:
        name, mark = yield from stream.take_until(_AFTER_NAME, NAME_LIMIT)
        if mark != "{":
            yield from _open_fence(stream, mark)
    if not name.strip():
        raise Malformed
    arguments = yield from json_value(stream)
    make_call(stream, Call(name.strip(), arguments))
    yield from stream.skip_space()
    yield from stream.accept(_FENCE)
    yield from stream.skip_space()
    yield from stream.accept(_END_CALL)


def _open_fence(stream: Stream, mark: str) -> Steps[None]:
    if mark != _FENCE:
        yield from stream.skip_space()
        yield from stream.accept(_FENCE)
    yield from stream.accept("json")
    yield from stream.skip_space()
    yield from stream.expect("{")


FORMAT = Format(
    calls={_BEGIN: _body, _CALL: _single},
    marks=(_END, _END_CALL, _SEPARATOR),
    thinking=(("<think>",), "</think>"),
)
