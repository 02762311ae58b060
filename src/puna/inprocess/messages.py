"""Messages as callers write them, as conversations have them."""

from collections.abc import Mapping
from typing import Any

from puna.chat.conversation import Message
from puna.chat.events import ToolCall
from puna.client.arguments import GivenMessage
from puna.client.calls import image_bytes, message_fields
from puna.errors import InvalidOption


def read_message(message: GivenMessage) -> Message:
    """The message. Raises: InvalidOption: a field is missing or of the wrong type, or a picture is none."""
    fields = message_fields(message)
    role = _text(fields, "role")
    if not role:
        raise InvalidOption("a message has no role")
    return Message(
        role=role.lower(),
        content=_text(fields, "content"),
        thinking=_text(fields, "thinking"),
        images=tuple(image_bytes(image) for image in fields.get("images") or ()),
        tool_calls=tuple(_call(index, call) for index, call in enumerate(fields.get("tool_calls") or ())),
        tool_name=_text(fields, "tool_name"),
        tool_call_id=_text(fields, "tool_call_id"),
    )


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidOption(f"a message's {name} must be a text, not {type(value).__name__}")
    return value or ""


def _call(index: int, call: Any) -> ToolCall:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidOption('a tool call must be {"function": {"name": …, "arguments": {…}}}')
    arguments = function.get("arguments") or {}
    if not isinstance(arguments, Mapping):
        raise InvalidOption(f"the arguments of a tool call must be an object, not {type(arguments).__name__}")
    identity = call.get("id") or None
    return ToolCall(index, function["name"], dict(arguments), identity)
