"""Llama 3.1 and later: JSON at the beginning of the answer or after a tag, or a list of Python calls.

    {"name": "f", "parameters": {…}}; {"name": "g", "parameters": {…}}
    <|python_tag|>{"name": "f", "parameters": {…}}
    <|python_tag|>brave_search.call(query="…")
    [f(a=1), g(b="x")]
    <function=f>{"a": 1}</function>

What stands at the beginning looks like any text, so there only declared tools are called.
"""

from puna.chat.parsers.answer import Format
from puna.chat.parsers.calls import NAME_LIMIT, Call, calls, json_value, make_call
from puna.chat.parsers.stream import Steps, Stream, Tags

_ENDS = ("<|python_end|>", "<|eom_id|>", "<|eot_id|>")
_CLOSE = Tags(">")


def _object(stream: Stream) -> Steps[None]:
    return calls(stream, *_ENDS, opening="{", only_declared=True)


def _list(stream: Stream) -> Steps[None]:
    return calls(stream, *_ENDS, opening="[", python=True, only_declared=True)


def _tagged(stream: Stream) -> Steps[None]:
    return calls(stream, *_ENDS, python=True)


def _function(stream: Stream) -> Steps[None]:
    name, _ = yield from stream.take_until(_CLOSE, NAME_LIMIT)
    yield from stream.skip_space()
    yield from stream.expect("{")
    arguments = yield from json_value(stream)
    make_call(stream, Call(name.strip(), arguments), only_declared=True)
    yield from stream.skip_space()
    yield from stream.accept("</function>")


FORMAT = Format(
    calls={"<|python_tag|>": _tagged, "<|python_start|>": _tagged, "<function=": _function},
    marks=("<|python_end|>", "</function>"),
    leading={"{": _object, "[": _list},
)
