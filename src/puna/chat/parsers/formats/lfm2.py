"""Liquid's LFM 2: a list of calls as Python writes them, now and then without the tags around it.

<|tool_call_start|>[get_weather(city='Paris')]<|tool_call_end|>
"""

from puna.chat.parsers.answer import Format
from puna.chat.parsers.calls import calls
from puna.chat.parsers.stream import Steps, Stream

_END = "<|tool_call_end|>"


def _body(stream: Stream) -> Steps[None]:
    return calls(stream, _END, python=True)


def _bare(stream: Stream) -> Steps[None]:
    return calls(stream, _END, opening="[", python=True, only_declared=True)


_CALLS = {"<|tool_call_start|>": _body}
FORMAT = Format(calls=_CALLS, leading={"[": _bare}, marks=(_END,))
THINKING = Format(calls=_CALLS, leading={"[": _bare}, marks=(_END,), thinking=(("<think>",), "</think>"))
