"""Cohere's Command A, Command R7B and North: every part of the answer between control tokens.

<|START_THINKING|>…<|END_THINKING|><|START_RESPONSE|>…<|END_RESPONSE|>
<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "f", "parameters": {…}}]<|END_ACTION|>
"""

from puna.chat.parsers.answer import Format
from puna.chat.parsers.calls import calls
from puna.chat.parsers.stream import Steps, Stream


def _body(stream: Stream) -> Steps[None]:
    return calls(stream, "<|END_ACTION|>")


FORMAT = Format(
    calls={"<|START_ACTION|>": _body},
    thinking=(("<|START_THINKING|>",), "<|END_THINKING|>"),
    thinks_anywhere=True,
    ignored=(
        *("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
        *("<|END_ACTION|>", "<|END_OF_TURN_TOKEN|>"),
    ),
)
