"""IBM's Granite 3 and 4: `<|tool_call|>[{"name": …, "arguments": {…}}]`, or with `<tool_call>` tags.

Granite 3.3 thinks in `<think>…</think>` and then answers in `<response>…</response>`.
"""

from puna.chat.parsers.answer import Format
from puna.chat.parsers.calls import calls
from puna.chat.parsers.stream import Steps, Stream

# Granite closes with the first, or not at all; Phi 4 mini, which writes the same, with the second.
_ENDS = ("</tool_call>", "<|/tool_call|>")


def _body(stream: Stream) -> Steps[None]:
    return calls(stream, *_ENDS)


FORMAT = Format(
    calls={"<|tool_call|>": _body, "<tool_call>": _body},
    marks=_ENDS,
    thinking=(("<think>",), "</think>"),
    reply=("<response>", "</response>"),
)
