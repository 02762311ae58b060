"""OLMo 3: calls as Python writes them, one a line.

<function_calls>
get_weather(city="Paris")
</function_calls>
"""

from puna.chat.parsers.answer import Format
from puna.chat.parsers.calls import calls
from puna.chat.parsers.stream import Steps, Stream


def _body(stream: Stream) -> Steps[None]:
    return calls(stream, "</function_calls>", python=True)


FORMAT = Format(calls={"<function_calls>": _body}, marks=("</function_calls>",))
THINKING = Format(thinking=(("<think>",), "</think>"))
