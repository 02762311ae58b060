"""A response of /v1/responses as it comes about: events in their order, and at last the document."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, TypedDict

from puna.chat.events import Content, Thinking, ToolCall
from puna.engine.events import TokenLogprob
from puna.server.errors import ErrorAnswer
from puna.server.openai.chat import call_document
from puna.server.openai.errors import error_object
from puna.server.openai.usage import logprob_document, new_id, usage
from puna.server.sse import sse_event
from puna.services.conversation import Finished
from puna.services.inference import AnswerEvent, Logprobs
from puna.services.responses import Item

ResponseEvent: TypeAlias = tuple[str, dict[str, Any]]
"""The type of an event, and what else it says."""


class ResponseEventDocument(TypedDict):
    """What every event of a stream says; the rest is its type's."""

    type: str
    sequence_number: int


class ResponseDocument(TypedDict):
    """A response, whole or as far as it is known."""

    id: str
    object: str
    created_at: int
    status: str
    background: bool
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[Item]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, Any]
    service_tier: str
    store: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None
    truncation: str
    usage: dict[str, Any] | None
    user: str | None
    metadata: dict[str, str]


class Building:
    """See the module.

    Attributes:
        document: the response as far as it is known.

    Args:
        document: the response without output.
        tells_thinking: thoughts are given along, to be sent back by a client that keeps the conversation.
    """

    def __init__(self, document: ResponseDocument, *, tells_thinking: bool = False) -> None:
        self.document = document
        self._output = document["output"]
        self._tells_thinking = tells_thinking
        self._texts: list[str] = []
        self._tokens: list[TokenLogprob] = []
        self._sequence = 0
        # The item that grows; it becomes one of the output's when it is complete.
        self._item: Item | None = None

    def began(self) -> Iterator[ResponseEvent]:
        """The first events."""
        yield "response.created", {"response": self.document}
        yield "response.in_progress", {"response": self.document}

    def feed(self, event: AnswerEvent) -> Iterator[ResponseEvent]:
        """The events that one of the answer makes."""
        if isinstance(event, Logprobs):
            self._tokens += event.tokens
        elif isinstance(event, Content):
            yield from self._begin("message")
            self._texts.append(event.text)
            yield "response.output_text.delta", {**self._part, "delta": event.text, "logprobs": []}
        elif isinstance(event, Thinking):
            yield from self._begin("reasoning")
            self._texts.append(event.text)
            yield "response.reasoning_summary_text.delta", {**self._summary, "delta": event.text}
        elif isinstance(event, ToolCall):
            yield from self._end("completed")
            yield from self._call(event)
        elif isinstance(event, Finished):
            yield from self._finish(event)

    def ended(self) -> ResponseEvent:
        """The last event."""
        return f"response.{self.document['status']}", {"response": self.document}

    def encoded(self, event: ResponseEvent) -> bytes:
        """The event in a stream, with its number."""
        kind, values = event
        number, self._sequence = self._sequence, self._sequence + 1
        return sse_event({"type": kind, "sequence_number": number, **values}, kind)

    def failed(self, answer: ErrorAnswer) -> bytes:
        """The end of a stream that failed."""
        error = error_object(answer)
        self.document["status"] = "failed"
        self.document["error"] = {"code": error["code"] or error["type"], "message": error["message"]}
        return self.encoded(self.ended())

    def _finish(self, finished: Finished) -> Iterator[ResponseEvent]:
        cut = finished.reason == "length"
        status = "incomplete" if cut else "completed"
        yield from self._end(status)
        self.document["status"] = status
        self.document["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
        self.document["usage"] = _usage(finished)

    def _call(self, call: ToolCall) -> Iterator[ResponseEvent]:
        told = call_document(call)
        function = told["function"]
        item: Item = {
            "id": new_id("fc_"),
            "type": "function_call",
            "status": "in_progress",
            "call_id": told["id"],
            "name": function["name"],
            "arguments": "",
        }
        index, arguments = len(self._output), function["arguments"]
        place = {"item_id": item["id"], "output_index": index}
        yield "response.output_item.added", {"output_index": index, "item": item}
        yield "response.function_call_arguments.delta", {**place, "delta": arguments}
        done = {**place, "name": item["name"], "arguments": arguments}
        yield "response.function_call_arguments.done", done
        whole = {**item, "status": "completed", "arguments": arguments}
        self._output.append(whole)
        yield "response.output_item.done", {"output_index": index, "item": whole}

    def _begin(self, kind: str) -> Iterator[ResponseEvent]:
        """Have an item of this kind that grows."""
        if self._item is not None:
            if self._item["type"] == kind:
                return
            yield from self._end("completed")
        is_message = kind == "message"
        own = {"role": "assistant", "content": []} if is_message else {"summary": []}
        id = new_id("msg_" if is_message else "rs_")
        self._item = {"id": id, "type": kind, "status": "in_progress", **own}
        yield "response.output_item.added", {"output_index": len(self._output), "item": self._item}
        if is_message:
            yield "response.content_part.added", {**self._part, "part": _text_part("", [])}
        else:
            part = {"type": "summary_text", "text": ""}
            yield "response.reasoning_summary_part.added", {**self._summary, "part": part}

    def _end(self, status: str) -> Iterator[ResponseEvent]:
        """Complete the item that grows, if there is one."""
        if self._item is None:
            return
        text = "".join(self._texts)
        tokens, self._tokens, self._texts = self._tokens, [], []
        if self._item["type"] == "message":
            part = _text_part(text, tokens)
            done = {**self._part, "text": text, "logprobs": part["logprobs"]}
            yield "response.output_text.done", done
            yield "response.content_part.done", {**self._part, "part": part}
            own: Mapping[str, Any] = {"content": [part]}
        else:
            part = {"type": "summary_text", "text": text}
            yield "response.reasoning_summary_text.done", {**self._summary, "text": text}
            yield "response.reasoning_summary_part.done", {**self._summary, "part": part}
            own = {"summary": [part], **({"encrypted_content": text} if self._tells_thinking else {})}
        whole = {**self._item, **own, "status": status}
        index = len(self._output)
        self._output.append(whole)
        self._item = None
        yield "response.output_item.done", {"output_index": index, "item": whole}

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item["id"] if self._item else "", "output_index": len(self._output)}

    @property
    def _part(self) -> dict[str, Any]:
        return {**self._place, "content_index": 0}

    @property
    def _summary(self) -> dict[str, Any]:
        return {**self._place, "summary_index": 0}


def _text_part(text: str, tokens: list[TokenLogprob]) -> dict[str, Any]:
    told = [logprob_document(token) for token in tokens]
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": told}


def _usage(finished: Finished) -> dict[str, Any]:
    counted = usage([finished], [finished])
    dropped = {"dropped_tokens": counted["dropped_tokens"]} if "dropped_tokens" in counted else {}
    return {
        "input_tokens": counted["prompt_tokens"],
        "input_tokens_details": counted["prompt_tokens_details"],
        "output_tokens": counted["completion_tokens"],
        "output_tokens_details": counted["completion_tokens_details"],
        "total_tokens": counted["total_tokens"],
        **dropped,
    }
