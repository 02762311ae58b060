"""Gemma 3, which has no tokens for calls: Python in a fence, or at the beginning a list of it, or JSON.

```tool_code
get_weather(city="Paris")
```
"""

from puna.chat.parsers.answer import Format
from puna.chat.parsers.calls import calls
from puna.chat.parsers.stream import Steps, Stream

_FENCE = "```"


def _body(stream: Stream) -> Steps[None]:
    return calls(stream, _FENCE, python=True, only_declared=True)


def _list(stream: Stream) -> Steps[None]:
    return calls(stream, opening="[", python=True, only_declared=True)


def _object(stream: Stream) -> Steps[None]:
    return calls(stream, opening="{", only_declared=True)


FORMAT = Format(
    calls={"```tool_code\n": _body, "```tool_call\n": _body},
    leading={"{": _object, "[": _list, "```json\n": _body},
)
