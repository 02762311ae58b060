"""Qwen 3, and the many families with Hermes' notation.

<tool_call>{"name": "f", "arguments": {…}}</tool_call>
"""

from puna.chat.parsers.answer import Format
from puna.chat.parsers.calls import calls
from puna.chat.parsers.stream import Steps, Stream


def _body(stream: Stream) -> Steps[None]:
    return calls(stream, "</tool_call>")


FORMAT = Format(calls={"<tool_call>": _body})
THINKING = Format(
    calls={"<tool_call>": _body}, thinking=(("<think>",), "</think>"), calls_while_thinking=True
)
