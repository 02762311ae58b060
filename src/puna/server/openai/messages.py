"""Conversations as /v1/chat/completions spells them."""

from collections.abc import Sequence
from typing import Any

import msgspec

from puna.chat.conversation import Message
from puna.chat.events import ToolCall
from puna.server import fields
from puna.server.errors import Refused
from puna.server.http import check_depth
from puna.server.openai.pictures import picture

_PARAM = "messages"
_ROLES = {"developer": "system", "function": "tool"}


class FunctionBody(msgspec.Struct, kw_only=True):
    """A function that was called, with its arguments in JSON."""

    name: str = ""
    arguments: str = ""


class CallBody(msgspec.Struct, kw_only=True):
    """A call in an earlier answer."""

    id: str = ""
    function: FunctionBody = msgspec.field(default_factory=FunctionBody)


class MessageBody(msgspec.Struct, kw_only=True):
    """A message of a conversation."""

    role: str = ""
    content: fields.Parts = None
    name: str = ""
    reasoning: str = ""
    reasoning_content: str = ""
    refusal: str = ""
    tool_calls: list[CallBody] = []
    tool_call_id: str = ""


def messages_of(bodies: Sequence[MessageBody]) -> list[Message]:
    """The conversation. Raises: Refused, 400, for what is none."""
    if not bodies:
        raise Refused(400, "[] is too short - 'messages'", param=_PARAM)
    messages: list[Message] = []
    names: dict[str, str] = {}
    for index, body in enumerate(bodies):
        message = _message(body, index, names)
        names |= {call.id: call.name for call in message.tool_calls if call.id}
        messages.append(message)
    return messages


def _message(body: MessageBody, index: int, names: dict[str, str]) -> Message:
    role = _ROLES.get(body.role.lower(), body.role.lower())
    if not role:
        raise Refused(400, f"messages[{index}] has no role", param=_PARAM)
    thinking = body.reasoning or body.reasoning_content
    text, images = _content(body, index)
    return Message(
        role=role,
        content=text,
        thinking=thinking,
        images=images,
        tool_calls=tuple(_call(call, number) for number, call in enumerate(body.tool_calls)),
        tool_name=(body.name or names.get(body.tool_call_id, "")) if role == "tool" else "",
        tool_call_id=body.tool_call_id,
    )


def _content(body: MessageBody, index: int) -> tuple[str, tuple[bytes, ...]]:
    """The texts of a message's content, one a line, and its pictures."""
    content = body.content
    if isinstance(content, str):
        return content, ()
    if content is None and (body.tool_calls or body.reasoning or body.reasoning_content or body.refusal):
        return body.refusal, ()
    if not isinstance(content, list):
        kind = "<nil>" if content is None else type(content).__name__
        raise Refused(400, f"invalid message content type: {kind}, in messages[{index}]", param=_PARAM)
    return content_of(content, _PARAM)


def content_of(parts: Sequence[object], param: str) -> tuple[str, tuple[bytes, ...]]:
    """The texts among the parts of a content, one a line, and its pictures. Raises: Refused, 400."""
    texts: list[str] = []
    images: list[bytes] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or not isinstance(kind, str):
            raise Refused(400, 'invalid message format: a part of a content needs a "type"', param=param)
        if kind in ("text", "input_text", "output_text", "refusal"):
            texts.append(_text(part, "refusal" if kind == "refusal" else "text", param))
        elif kind in ("image_url", "input_image"):
            url = part.get("image_url")
            images.append(picture(url.get("url") if isinstance(url, dict) else url, param))
        else:
            raise Refused(
                400, f"invalid message format: parts of type {kind[:60]!r} are not supported", param=param
            )
    return "\n".join(texts), tuple(images)


def _text(part: dict[str, Any], name: str, param: str) -> str:
    text = part.get(name)
    if not isinstance(text, str):
        raise Refused(400, f"invalid message format: {name!r} of a part must be a text", param=param)
    return text


def _call(call: CallBody, index: int) -> ToolCall:
    return called(call.function.name, call.function.arguments, call.id, index, _PARAM)


def called(name: str, arguments: str, id: str, index: int, param: str) -> ToolCall:
    """A call, from arguments in JSON; none are an empty text. Raises: Refused, 400."""
    try:
        values = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Refused(400, f"invalid tool call arguments of {name[:60]!r}: no JSON", param=param) from error
    if not isinstance(values, dict):
        raise Refused(400, f"invalid tool call arguments of {name[:60]!r}: no JSON object", param=param)
    check_depth(values)
    return ToolCall(index, name, values, id or None)


def tools_of(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools as a model is to be told of them: that calls are kept to the schema needs no telling."""
    return [{**tool, "function": _without_strict(tool.get("function"))} for tool in tools]


def allowed(choice: object, tools: list[dict[str, Any]]) -> tuple[object, list[dict[str, Any]]]:
    """What a choice of the type `allowed_tools` leaves: a word, and some tools; others stay as they are.

    Args:
        choice: of /v1/chat/completions, or of /v1/responses, where mode and tools are beside the type.
        tools: as `tools_of` gives them.

    Raises:
        Refused: it has no mode, or names none or others than the tools.
    """
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return choice, tools
    told = choice.get("allowed_tools", choice)
    mode, listed = (told.get("mode"), told.get("tools")) if isinstance(told, dict) else (None, None)
    names = [_name(tool) for tool in listed] if isinstance(listed, list) else []
    left = [tool for tool in tools if _name(tool) in names]
    if mode not in ("auto", "required") or not names or any(name not in map(_name, left) for name in names):
        raise Refused(
            400,
            "tool_choice of type allowed_tools needs a mode, auto or required, and functions of tools",
            param="tool_choice",
        )
    return mode, left


def _name(tool: object) -> str:
    """A function's name, in the form of either route; empty where there is none."""
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""


def _without_strict(function: object) -> object:
    if not isinstance(function, dict):
        return function
    return {name: value for name, value in function.items() if name != "strict"}
