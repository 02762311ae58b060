"""IBM's Granite 3 and 4: `<|tool_call|>[{"name": …, "arguments": {…}}]`, or with `<tool_call>` tags.

Granite 3.3 thinks in `<think>…</think>` and then answers in `<response>…</response>`.
"""

from puna.chat.parsers.answer import Format
from puna.chat.parsers.calls import calls
from puna.chat.parsers.stream import Steps, Stream


def _body(stream: Stream) -> Steps[None]:
    return calls(stream, "</tool_call>")


FORMAT = Format(
    calls={"<|tool_call|>": _body, "<tool_call>": _body},
    thinking=(("<think>",), "</think>"),
    reply=("<response>", "</response>"),
)
