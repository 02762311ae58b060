"""Conversations as /v1/responses spells them: items, of which several make one message."""

from collections.abc import Mapping, Sequence
from typing import Any

from puna.chat.conversation import Message
from puna.chat.events import ToolCall
from puna.server.errors import Refused
from puna.server.openai.messages import called, content_of
from puna.server.openai.usage import new_id
from puna.services.responses import Item

_PARAM = "input"
_PREFIXES = {"message": "msg_", "function_call": "fc_", "function_call_output": "fco_", "reasoning": "rs_"}


def input_items(value: object) -> list[Item]:
    """What a request asks, as items that have ids; references to earlier ones stay as they are.

    Raises:
        Refused: 400, it is none of what there can be.
    """
    if isinstance(value, str):
        value = [{"role": "user", "content": [{"type": "input_text", "text": value}]}]
    if not isinstance(value, list) or not value:
        raise Refused(400, "input must be a text or a list of items", param=_PARAM)
    return [_item(one, index) for index, one in enumerate(value)]


def _item(value: object, index: int) -> Item:
    if not isinstance(value, dict):
        raise Refused(400, f"input[{index}] must be an object", param=_PARAM)
    kind = value.get("type") or ("message" if "role" in value else "")
    if kind == "item_reference":
        return {"type": kind, "id": _text(value, "id")}
    if kind not in _PREFIXES:
        raise Refused(400, f"input[{index}]: unknown input item type: {str(kind)[:60]!r}", param=_PARAM)
    id = value.get("id")
    return {**value, "type": kind, "id": id if isinstance(id, str) and id else new_id(_PREFIXES[kind])}


def messages_of_items(items: Sequence[Item]) -> list[Message]:
    """The conversation. Raises: Refused, 400."""
    turns = _Turns()
    for item in items:
        turns.add(item)
    return turns.finished()


class _Turns:
    """Puts messages together: what a model thought, said and called in one turn is one message."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._names: dict[str, str] = {}
        self._thinking: list[str] = []
        self._content: list[str] = []
        self._calls: list[ToolCall] = []

    def add(self, item: Item) -> None:
        """Take the next item in."""
        kind = item["type"]
        if kind == "reasoning":
            if self._content or self._calls:
                self._end()
            self._thinking.append(_thought(item))
        elif kind == "function_call":
            self._calls.append(self._call(item))
        elif kind == "function_call_output":
            self._end()
            self._messages.append(self._result(item))
        else:
            self._add_message(item)

    def finished(self) -> list[Message]:
        """All messages."""
        self._end()
        return self._messages

    def _add_message(self, item: Item) -> None:
        role = _text(item, "role").lower()
        text, images = _content(item.get("content"))
        if role == "assistant" and not images:
            if self._content or self._calls:
                self._end()
            self._content.append(text)
            return
        self._end()
        self._messages.append(Message("system" if role == "developer" else role, text, images=images))

    def _call(self, item: Item) -> ToolCall:
        name, id = _text(item, "name"), _text(item, "call_id")
        self._names[id] = name
        return called(name, _text(item, "arguments"), id, len(self._calls), _PARAM)

    def _result(self, item: Item) -> Message:
        id = _text(item, "call_id")
        text, images = _content(item.get("output"))
        return Message("tool", text, images=images, tool_name=self._names.get(id, ""), tool_call_id=id)

    def _end(self) -> None:
        """The model's turn is over."""
        if self._thinking or self._content or self._calls:
            content, thinking = "".join(self._content), "".join(self._thinking)
            self._messages.append(
                Message("assistant", content, thinking=thinking, tool_calls=tuple(self._calls))
            )
        self._thinking, self._content, self._calls = [], [], []


def _thought(item: Item) -> str:
    """The thinking in an item: what was told of it, else what was given along to be sent back."""
    for name in ("content", "summary"):
        parts = item.get(name)
        texts = (
            [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        )
        if found := "".join(text for text in texts if isinstance(text, str)):
            return found
    hidden = item.get("encrypted_content")
    return hidden if isinstance(hidden, str) else ""


def _content(value: object) -> tuple[str, tuple[bytes, ...]]:
    if isinstance(value, str):
        return value, ()
    if isinstance(value, list):
        return content_of(value, _PARAM)
    raise Refused(400, "input: the content of an item must be a text or a list of parts", param=_PARAM)


def _text(item: Mapping[str, Any], name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not value:
        raise Refused(400, f"input: an item of type {item.get('type')!r} needs {name!r}", param=_PARAM)
    return value
