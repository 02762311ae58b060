"""Streams of Anthropic's API, read and checked event by event."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_DELTAS = {
    "text": {"text_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
}


def events_of(data: bytes) -> list[dict[str, Any]]:
    """The events of a whole stream, whose names must be their types."""
    text = data.decode()
    assert text.endswith("\n\n")
    events = []
    for block in text[:-2].split("\n\n"):
        name, content = block.split("\n")
        event = json.loads(content.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


@dataclass
class Checked:
    """What a stream has said so far; each event must be one that may follow.

    Attributes:
        state: "new", "message", "block", "ended", "stopped" or "failed".
        content: the blocks, put together.
    """

    state: str = "new"
    message: dict[str, Any] = field(default_factory=dict)
    content: list[dict[str, Any]] = field(default_factory=list)
    pings: int = 0
    ending: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=dict)
    error: dict[str, Any] = field(default_factory=dict)
    arguments: str = ""

    def feed(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        assert self.state not in ("stopped", "failed"), f"{kind} after the end"
        if kind == "ping":
            assert self.state == "message"
            self.pings += 1
        elif kind == "error":
            self.state, self.error = "failed", event["error"]
        else:
            getattr(self, f"_{kind}")(event)

    def _message_start(self, event: dict[str, Any]) -> None:
        assert self.state == "new"
        self.state, self.message = "message", event["message"]
        assert (self.message["type"], self.message["role"]) == ("message", "assistant")
        assert self.message["content"] == []
        assert self.message["stop_reason"] is None and self.message["stop_sequence"] is None
        assert self.message["usage"]["input_tokens"] > 0

    def _content_block_start(self, event: dict[str, Any]) -> None:
        assert self.state == "message" and self.pings
        assert event["index"] == len(self.content)
        block = event["content_block"]
        assert not any(block[name] for name in ("text", "thinking", "signature", "input") if name in block)
        self.state, self.arguments = "block", ""
        self.content.append(block)

    def _content_block_delta(self, event: dict[str, Any]) -> None:
        assert self.state == "block" and event["index"] == len(self.content) - 1
        block, delta = self.content[-1], event["delta"]
        assert delta["type"] in _DELTAS[block["type"]]
        if delta["type"] == "input_json_delta":
            self.arguments += delta["partial_json"]
            return
        name = delta["type"].removesuffix("_delta")
        assert delta[name] and not block.get("signature")
        block[name] += delta[name]

    def _content_block_stop(self, event: dict[str, Any]) -> None:
        assert self.state == "block" and event["index"] == len(self.content) - 1
        block = self.content[-1]
        if block["type"] == "tool_use":
            block["input"] = json.loads(self.arguments)
        elif block["type"] == "thinking":
            assert block["signature"]
        self.state = "message"

    def _message_delta(self, event: dict[str, Any]) -> None:
        assert self.state == "message"
        self.state, self.ending, self.usage = "ended", event["delta"], event["usage"]

    def _message_stop(self, event: dict[str, Any]) -> None:
        assert self.state == "ended"
        self.state = "stopped"


def checked(events: Iterable[dict[str, Any]]) -> Checked:
    """The stream of these events, all of which were in their places."""
    found = Checked()
    for event in events:
        found.feed(event)
    return found


def as_message(stream: Checked) -> dict[str, Any]:
    """What the stream amounts to, in the form of an answer in one piece; without its id."""
    ids = {"id": ""}
    blocks = [{**block, **ids} if "id" in block else block for block in stream.content]
    return {**stream.message, **ids, "content": blocks, **stream.ending, "usage": stream.usage}
