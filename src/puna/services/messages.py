"""Messages of conversations as Ollama's API writes them, whoever sends them."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import msgspec

from puna.chat.conversation import Message
from puna.chat.events import ToolCall
from puna.errors import InvalidOption


class FunctionBody(msgspec.Struct, kw_only=True):
    """A function that was called."""

    index: int = 0
    name: str = ""
    arguments: dict[str, Any] = {}


class CallBody(msgspec.Struct, kw_only=True):
    """A call in an earlier answer."""

    id: str = ""
    function: FunctionBody = msgspec.field(default_factory=FunctionBody)


class MessageBody(msgspec.Struct, kw_only=True):
    """A message of a conversation."""

    role: str = ""
    content: str = ""
    thinking: str = ""
    images: list[str] = []
    tool_calls: list[CallBody] = []
    tool_name: str = ""
    tool_call_id: str = ""


def message_of(body: MessageBody) -> Message:
    """The message. Raises: InvalidOption: a call has no name, or a picture is none."""
    return Message(
        role=body.role.lower(),
        content=body.content,
        thinking=body.thinking,
        images=pictures(body.images),
        tool_calls=tuple(_call(call) for call in body.tool_calls),
        tool_name=body.tool_name,
        tool_call_id=body.tool_call_id,
    )


def _call(call: CallBody) -> ToolCall:
    function = call.function
    if not function.name:
        raise InvalidOption("a tool call of a message has no function name")
    return ToolCall(function.index, function.name, function.arguments, call.id or None)


def pictures(texts: Sequence[str]) -> tuple[bytes, ...]:
    """The content of image files in base64. Raises: InvalidOption."""
    return tuple(_picture(index, text) for index, text in enumerate(texts))


def _picture(index: int, text: str) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidOption(f"invalid image: images[{index}] is not base64") from error
    if not content:
        raise InvalidOption(f"invalid image: images[{index}] is empty")
    return content
