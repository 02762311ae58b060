"""Qwen 3, and the many families with Hermes' notation.

<tool_call>{"name": "f", "arguments": {…}}</tool_call>
"""

from puna.chat.parsers.answer import Format
from puna.chat.parsers.calls import calls
from puna.chat.parsers.stream import Steps, Stream

_END = "</tool_call>"


def _body(stream: Stream) -> Steps[None]:
    return calls(stream, _END)


FORMAT = Format(calls={"<tool_call>": _body}, marks=(_END,))
THINKING = Format(
    calls={"<tool_call>": _body},
    marks=(_END,),
    thinking=(("<think>",), "</think>"),
    calls_while_thinking=True,
)
