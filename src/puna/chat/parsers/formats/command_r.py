"""Cohere's Command R: a list of actions in a fence of JSON.

    Action: ```json
    [{"tool_name": "f", "parameters": {…}}]
    ```

By a tool `directly_answer`, which the prompt tells it of, it means that it calls none: only declared tools
count.
"""

from puna.chat.parsers.answer import Format
from puna.chat.parsers.calls import calls
from puna.chat.parsers.stream import Steps, Stream


def _body(stream: Stream) -> Steps[None]:
    return calls(stream, "```", only_declared=True)


_OPENINGS = ("Action: ```json", "Action:```json", "Action:\n```json")
FORMAT = Format(calls=dict.fromkeys(_OPENINGS, _body), ignored=("<|END_OF_TURN_TOKEN|>",))
