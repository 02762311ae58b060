"""Server-sent events, read strictly, and what streams of OpenAI's API must look like."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """An event: its type, which may be empty, and its data."""

    name: str
    data: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


def events_of(body: bytes) -> list[Event]:
    """The events of a whole stream, each of one line of data and at most one that names it."""
    text = body.decode()
    assert text.endswith("\n\n")
    return [event_of(block) for block in text.removesuffix("\n\n").split("\n\n")]


def event_of(block: str) -> Event:
    *head, data = block.split("\n")
    assert data.startswith("data: ") and len(head) <= 1
    assert all(line.startswith("event: ") for line in head)
    return Event(head[0].removeprefix("event: ") if head else "", data.removeprefix("data: "))


@dataclass(slots=True)
class ChatChoice:
    """What a stream has told of one choice."""

    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, str]] = field(default_factory=list)
    tokens: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""
    begun: bool = False

    def take(self, chunk: dict[str, Any]) -> None:
        assert {*chunk} == {"index", "delta", "logprobs", "finish_reason"}
        assert not self.reason, "nothing comes after the end"
        delta = chunk["delta"]
        if not self.begun:
            assert delta == {"role": "assistant", "content": ""}
            self.begun = True
        else:
            assert "role" not in delta
        self.content += delta.get("content", "")
        self.reasoning += delta.get("reasoning", "")
        for call in delta.get("tool_calls", ()):
            self.take_call(call)
        if chunk["logprobs"]:
            self.tokens += chunk["logprobs"]["content"]
        if chunk["finish_reason"]:
            assert delta == {}
            self.reason = chunk["finish_reason"]
        else:
            assert len(delta) == (2 if "role" in delta else 1)

    def take_call(self, call: dict[str, Any]) -> None:
        if call["index"] == len(self.calls):
            assert {*call} == {"index", "id", "type", "function"} and call["type"] == "function"
            assert call["id"] and call["function"]["arguments"] == ""
            self.calls.append({"id": call["id"], "name": call["function"]["name"], "arguments": ""})
        else:
            assert {*call} == {"index", "function"} and {*call["function"]} == {"arguments"}
            assert call["index"] == len(self.calls) - 1
            self.calls[-1]["arguments"] += call["function"]["arguments"]


@dataclass(slots=True)
class ChatStream:
    """A whole stream of /v1/chat/completions."""

    choices: list[ChatChoice]
    usage: dict[str, Any] | None
    error: dict[str, Any] | None


def read_chat(events: Sequence[Event], count: int = 1, *, usage: bool = False) -> ChatStream:
    """Checks the order of the events and that nothing is missing: the choices, the usage, the end."""
    chunks, told, error = _read_chunks(events, "chat.completion.chunk", "chatcmpl-", usage)
    choices = [ChatChoice() for _ in range(count)]
    for chunk in chunks:
        (one,) = chunk["choices"]
        choices[one["index"]].take(one)
    assert error or all(choice.reason for choice in choices)
    return ChatStream(choices, told, error)


@dataclass(slots=True)
class TextChoice:
    """What a stream of /v1/completions has told of one choice."""

    text: str = ""
    reason: str = ""

    def take(self, chunk: dict[str, Any]) -> None:
        assert {*chunk} == {"index", "text", "logprobs", "finish_reason"}
        assert not self.reason, "nothing comes after the end"
        assert chunk["text"] or chunk["finish_reason"]
        self.text += chunk["text"]
        self.reason = chunk["finish_reason"] or ""


@dataclass(slots=True)
class TextStream:
    """A whole stream of /v1/completions."""

    choices: list[TextChoice]
    usage: dict[str, Any] | None
    error: dict[str, Any] | None


def read_text(events: Sequence[Event], count: int = 1, *, usage: bool = False) -> TextStream:
    """As `read_chat`, for a stream of /v1/completions."""
    chunks, told, error = _read_chunks(events, "text_completion", "cmpl-", usage)
    choices = [TextChoice() for _ in range(count)]
    for chunk in chunks:
        (one,) = chunk["choices"]
        choices[one["index"]].take(one)
    assert error or all(choice.reason for choice in choices)
    return TextStream(choices, told, error)


def _read_chunks(
    events: Sequence[Event], kind: str, prefix: str, usage: bool
) -> tuple[list[dict[str, Any]], dict[str, Any] | None, dict[str, Any] | None]:
    """The chunks with choices, the usage, and the error at the end, if there is one."""
    assert all(not event.name for event in events)
    if "error" in events[-1].data and (error := events[-1].json.get("error")):
        assert {*error} == {"message", "type", "param", "code"}
        *chunks, _ = [event.json for event in events]
    else:
        error = None
        assert events[-1].data == "[DONE]"
        chunks = [event.json for event in events[:-1]]
    assert (
        len({(c["id"], c["created"], c["model"], c["system_fingerprint"], c["object"]) for c in chunks}) == 1
    )
    assert chunks[0]["object"] == kind and chunks[0]["id"].startswith(prefix)
    told = None
    if usage and not error:
        *chunks, last = chunks
        assert last["choices"] == []
        told = last["usage"]
    for chunk in chunks:
        assert ("usage" in chunk) == usage and chunk.get("usage") is None
    return chunks, told, error


# From which state an event leads to which; what is between items is "between".
STEPS: Mapping[tuple[str, str], str] = {
    ("start", "created"): "created",
    ("created", "in_progress"): "between",
    ("between", "output_item.added"): "added",
    ("added", "content_part.added"): "text",
    ("text", "output_text.delta"): "text",
    ("text", "output_text.done"): "text done",
    ("text done", "content_part.done"): "whole",
    ("added", "reasoning_summary_part.added"): "summary",
    ("summary", "reasoning_summary_text.delta"): "summary",
    ("summary", "reasoning_summary_text.done"): "summary done",
    ("summary done", "reasoning_summary_part.done"): "whole",
    ("added", "function_call_arguments.delta"): "arguments",
    ("arguments", "function_call_arguments.delta"): "arguments",
    ("arguments", "function_call_arguments.done"): "whole",
    ("whole", "output_item.done"): "between",
    ("between", "completed"): "end",
    ("between", "incomplete"): "end",
}


@dataclass(slots=True)
class ResponseStream:
    """A stream of /v1/responses: which item grows, and what has come.

    Attributes:
        output: the items that are complete.
        last: the last response that was told.
    """

    output: list[dict[str, Any]] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    ended: str = ""
    _item: dict[str, Any] | None = None
    _state: str = "start"
    _text: str = ""

    def take(self, number: int, event: Event) -> None:
        data = event.json
        assert data["type"] == event.name and data["sequence_number"] == number
        kind = event.name.removeprefix("response.")
        step = "end" if kind == "failed" else STEPS.get((self._state, kind))
        assert step, f"{kind} must not come in the state {self._state}"
        self._state = step
        if "response" in data:
            self.last = data["response"]
        if step == "end":
            self.ended = kind
            assert self.last["status"] == kind
        self.take_item(kind, data)

    def take_item(self, kind: str, data: dict[str, Any]) -> None:
        if "output_index" in data:
            assert data["output_index"] == len(self.output)
        if kind == "output_item.added":
            self._item, self._text = data["item"], ""
            assert self._item is not None and self._item["status"] == "in_progress"
        elif "item_id" in data:
            assert self._item is not None and data["item_id"] == self._item["id"]
        if kind.endswith(".delta"):
            self._text += data["delta"]
        elif kind.endswith(("text.done", "arguments.done")):
            assert self._text == data.get("text", data.get("arguments"))
        elif kind == "output_item.done":
            assert self._item is not None and data["item"]["id"] == self._item["id"]
            self.output.append(data["item"])
            self._item = None


def read_responses(events: Sequence[Event]) -> ResponseStream:
    """Checks the order of the events and that nothing is missing."""
    stream = ResponseStream()
    for number, event in enumerate(events):
        stream.take(number, event)
    assert stream.ended
    if stream.ended != "failed":
        assert stream.last["output"] == stream.output
    return stream
