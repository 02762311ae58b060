"""Conversations in Anthropic's form, as the services know them."""

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import replace

from puna.chat.conversation import Message
from puna.chat.events import ToolCall
from puna.errors import InvalidOption
from puna.server.anthropic.wire import BlockBody, MessageBody, PromptBody

_PICTURES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_MERGED = ("user", "assistant")


def read_messages(body: PromptBody) -> list[Message]:
    """The messages of a request, its system prompt first.

    Results of tools come before the text of the message they are in, each as a message of its own. Messages
    that follow one of the same side are one with it.

    Raises:
        InvalidOption: a message has a part that makes no sense here; the text names it.
    """
    if not body.messages:
        raise InvalidOption("messages is required")
    system = _texts(body.system, "system")
    messages = [Message("system", system)] if system else []
    names: dict[str, str] = {}
    for index, message in enumerate(body.messages):
        for read in _read(message, f"messages.{index}", names):
            if messages and read.role == messages[-1].role and read.role in _MERGED:
                messages[-1] = _merged(messages[-1], read)
            else:
                messages.append(read)
    return messages


def _read(message: MessageBody, place: str, names: dict[str, str]) -> list[Message]:
    """The messages that one stands for.

    Args:
        names: of the tools called so far, by the ids of their calls.
    """
    if message.role == "assistant":
        answer = _assistant(message.content, place)
        names |= {call.id: call.name for call in answer.tool_calls if call.id}
        return [answer]
    if message.role == "user":
        return _user(message.content, place, names)
    if message.role == "system":
        return [Message("system", _texts(message.content, place))]
    raise InvalidOption(f"{place}.role must be user or assistant, not {message.role[:60]!r}")


def _user(content: str | list[BlockBody], place: str, names: dict[str, str]) -> list[Message]:
    results: list[Message] = []
    texts: list[str] = []
    images: list[bytes] = []
    for where, block in _blocks(content, place):
        if block.type == "tool_result":
            results.append(_result(block, where, names))
        elif block.type == "image":
            images.append(_picture(block, where))
        else:
            texts.append(_text(block, where))
    if results and not texts and not images:
        return results
    return [*results, Message("user", "\n".join(texts), images=tuple(images))]


def _assistant(content: str | list[BlockBody], place: str) -> Message:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for where, block in _blocks(content, place):
        if block.type == "tool_use":
            calls.append(_call(block, where, len(calls)))
        elif block.type == "thinking":
            thoughts.append(block.thinking)
        elif block.type != "redacted_thinking":  # which says nothing to anybody else
            texts.append(_text(block, where))
    # The model wrote these as one text.
    return Message("assistant", "".join(texts), thinking="\n".join(thoughts), tool_calls=tuple(calls))


def _call(block: BlockBody, where: str, index: int) -> ToolCall:
    if not block.id or not block.name:
        raise InvalidOption(f"{where}: a tool_use block needs an id and a name")
    return ToolCall(index, block.name, block.input, block.id)


def _result(block: BlockBody, where: str, names: dict[str, str]) -> Message:
    if block.tool_use_id not in names:
        id = block.tool_use_id[:60]
        raise InvalidOption(f"{where}: no tool_use block before it has the id {id!r} of this tool_result")
    texts: list[str] = []
    images: list[bytes] = []
    for inner, part in _blocks(block.content, f"{where}.content", part_of=""):
        if part.type == "image":
            images.append(_picture(part, inner))
        else:
            texts.append(_text(part, inner))
    text = "\n".join(texts)
    return Message(
        "tool",
        f"Error: {text}" if block.is_error else text,
        images=tuple(images),
        tool_name=names[block.tool_use_id],
        tool_call_id=block.tool_use_id,
    )


def _picture(block: BlockBody, where: str) -> bytes:
    kind = block.source.get("type")
    if kind != "base64":
        raise InvalidOption(
            f"{where}: invalid image source type: {str(kind)[:60]}. Only base64 images are supported."
        )
    media, data = block.source.get("media_type"), block.source.get("data")
    if media not in _PICTURES:
        raise InvalidOption(f"{where}: an image must be {', '.join(_PICTURES)}, not {str(media)[:60]!r}")
    try:
        content = base64.b64decode(data, validate=True) if isinstance(data, str) else b""
    except (binascii.Error, ValueError) as error:
        raise InvalidOption(f"{where}: the image's data is no base64") from error
    if not content:
        raise InvalidOption(f"{where}: the image is empty")
    return content


def _texts(content: str | list[BlockBody], place: str) -> str:
    return "\n".join(_text(block, where) for where, block in _blocks(content, place))


def _text(block: BlockBody, where: str) -> str:
    if block.type != "text":
        raise InvalidOption(f"{where}: content of type {block.type[:60]!r} is not supported here")
    return block.text


def _blocks(
    content: str | list[BlockBody], place: str, part_of: str = ".content"
) -> Iterable[tuple[str, BlockBody]]:
    """The blocks with their places; a text is one block."""
    if isinstance(content, str):
        return [(place, BlockBody(type="text", text=content))]
    return [(f"{place}{part_of}.{index}", block) for index, block in enumerate(content)]


def _merged(first: Message, second: Message) -> Message:
    texts = [text for text in (first.content, second.content) if text]
    calls = [*first.tool_calls, *second.tool_calls]
    return replace(
        first,
        content=("\n" if first.role == "user" else "").join(texts),
        thinking="\n".join(_present(first.thinking, second.thinking)),
        images=(*first.images, *second.images),
        tool_calls=tuple(replace(call, index=index) for index, call in enumerate(calls)),
    )


def _present(*texts: str) -> Sequence[str]:
    return [text for text in texts if text]
