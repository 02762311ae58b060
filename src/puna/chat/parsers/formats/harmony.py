"""gpt-oss: messages on the channels analysis, commentary and final, some of them for tools.

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…<|return|>
    <|channel|>commentary to=functions.f <|constrain|>json<|message|>{…}<|call|>

Source: the description of the Harmony response format that OpenAI publishes with the models.
"""

import re
from collections.abc import Mapping
from functools import partial

from puna.chat.events import Content, Thinking
from puna.chat.parsers.calls import NAME_LIMIT, Call, declared, json_value, make_call
from puna.chat.parsers.messages import Messages, conversation
from puna.chat.parsers.stream import Body, Kind, Malformed, Schema, Steps, Stream

_START, _CHANNEL, _CONSTRAIN = "<|start|>", "<|channel|>", "<|constrain|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_PEOPLE = frozenset(("", "assistant", "user", "all"))
_NOT_IN_NAMES = re.compile(r"[^\w$]")


def steps(stream: Stream, thinking_open: bool) -> Steps[None]:
    """The steps of an answer; `thinking_open` if the prompt ends inside a message of the channel analysis."""
    return conversation(stream, _MESSAGES, Thinking if thinking_open else None)


def _route(header: str, stream: Stream) -> Kind | Body:
    channel, recipient = _read(header)
    if recipient not in _PEOPLE and stream.tools:
        return partial(_body, recipient)
    return Thinking if channel == "analysis" and recipient in _PEOPLE else Content


def _read(header: str) -> tuple[str, str]:
    """The channel and the recipient, which stands after the role or after the channel."""
    for tag in (_START, _CHANNEL, _CONSTRAIN):
        header = header.replace(tag, f" {tag} ")
    words = header.split()
    channel = words[words.index(_CHANNEL) + 1 :][:1] if _CHANNEL in words else []
    recipients = [word.removeprefix("to=") for word in words if word.startswith("to=")]
    return "".join(channel), "".join(recipients[:1])


def _body(recipient: str, stream: Stream) -> Steps[None]:
    if len(recipient) > NAME_LIMIT:
        raise Malformed
    yield from stream.skip_space()
    if (yield from stream.accept("{")):
        arguments = yield from json_value(stream)
    elif (yield from stream.accept(*_ENDS)):
        arguments = {}
    else:
        raise Malformed
    make_call(stream, Call(_tool(recipient.removeprefix("functions."), stream.tools), arguments))


def _tool(written: str, tools: Mapping[str, Schema]) -> str:
    """The declared tool, whose name the prompt may have spelled as an identifier."""
    if written in tools:
        return written
    spelled = [name for name in tools if _NOT_IN_NAMES.sub("_", name) == written]
    return spelled[0] if len(spelled) == 1 else declared(written, tools)


_MESSAGES = Messages(
    begin=(_START, _CHANNEL),
    resume=("to=", _CONSTRAIN),
    message="<|message|>",
    ends=_ENDS,
    route=_route,
    shows_headers=True,
)
TOKENS = (*_MESSAGES.tokens(), _CONSTRAIN)
FINAL = f"{_CHANNEL}final<|message|>"
