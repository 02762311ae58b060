"""An answer's events as the replies of Ollama's API."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from puna.chat.events import Content, Event, Thinking, ToolCall
from puna.client import replies
from puna.client.replies import Answer, ChatReply, Function, GenerateReply, Message
from puna.engine.events import Event as EngineEvent
from puna.engine.events import TextChunk, TokenLogprob
from puna.services.conversation import Finished
from puna.services.figures import figures, now_text

Reply = TypeVar("Reply", bound=Answer)


@dataclass(slots=True)
class Heard:
    """What is taken from the engine's events as they pass.

    Attributes:
        pending: log-probabilities that are still to be told.
        texts: the answer as the model has written it.
    """

    pending: list[TokenLogprob] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def listen(self, events: Iterable[EngineEvent]) -> Iterator[EngineEvent]:
        """The events, unchanged."""
        for event in events:
            if isinstance(event, TextChunk):
                self.pending += event.logprobs
                self.texts.append(event.text)
            yield event

    def take(self) -> list[replies.TokenLogprob] | None:
        """What was heard since the last time; None for nothing."""
        taken, self.pending = self.pending, []
        return [_logprob(token) for token in taken] or None


@dataclass(frozen=True, slots=True)
class Measured:
    """What the last reply tells that the answer's events do not.

    Attributes:
        began: when the request came, by `time.perf_counter`.
        load_seconds: how long the model took to load, if this is its first answer.
        context: from the answer's text, the tokens that a next prompt can go on from; None tells none.
    """

    began: float
    load_seconds: float
    context: Callable[[str], Sequence[int]] | None = None

    def last(self, finished: Finished, answer: str) -> dict[str, Any]:
        """The fields of the last reply, to an answer of this text."""
        total = time.perf_counter() - self.began + self.load_seconds
        measured = replace(finished, load_seconds=self.load_seconds, total_seconds=total)
        context = {"context": list(self.context(answer))} if self.context else {}
        return {"done": True, "done_reason": finished.reason, **figures(measured), **context}


Build = Callable[[str, "Event | None", dict[str, Any]], Reply]
"""Makes a reply from the model's name, an event or none for the end, and further fields."""


def pieces(
    model: str, events: Iterable["Event | Finished"], heard: Heard, measured: Measured, build: Build[Reply]
) -> Generator[Reply, None, None]:
    """A reply for each event; those that the engine gave no text for have log-probabilities alone."""
    for event in events:
        fields: dict[str, Any] = {"created_at": now_text(), "logprobs": heard.take()}
        if isinstance(event, Finished):
            yield build(model, None, {**fields, **measured.last(event, "".join(heard.texts))})
        else:
            yield build(model, event, fields)


def chat_reply(model: str, event: Event | None, fields: dict[str, Any]) -> ChatReply:
    """A piece of an answer to a conversation."""
    match event:
        case Thinking(text):
            message = Message(role="assistant", thinking=text)
        case Content(text):
            message = Message(role="assistant", content=text)
        case ToolCall():
            message = Message(role="assistant", tool_calls=[tool_call(event)])
        case _:
            message = Message(role="assistant")
    return ChatReply(model=model, message=message, **fields)


def generate_reply(model: str, event: Event | None, fields: dict[str, Any]) -> GenerateReply:
    """A piece of an answer to a prompt."""
    match event:
        case Thinking(text):
            return GenerateReply(model=model, thinking=text, **fields)
        case Content(text):
            return GenerateReply(model=model, response=text, **fields)
        case ToolCall():
            return GenerateReply(model=model, tool_calls=[tool_call(event)], **fields)
    return GenerateReply(model=model, **fields)


def whole_chat(parts: Iterable[ChatReply]) -> ChatReply:
    """The pieces as one reply."""
    taken = list(parts)
    last = taken[-1]
    messages = [part.message for part in taken]
    message = Message(
        role="assistant",
        content="".join(message.content for message in messages),
        thinking="".join(message.thinking for message in messages),
        tool_calls=[call for message in messages for call in message.tool_calls or ()] or None,
    )
    return ChatReply(message=message, **_common(last, taken))


def whole_generate(parts: Iterable[GenerateReply]) -> GenerateReply:
    """The pieces as one reply."""
    taken = list(parts)
    return GenerateReply(
        response="".join(part.response for part in taken),
        thinking="".join(part.thinking for part in taken),
        tool_calls=[call for part in taken for call in part.tool_calls or ()] or None,
        context=taken[-1].context,
        **_common(taken[-1], taken),
    )


def _common(last: Answer, parts: Iterable[Answer]) -> dict[str, Any]:
    fields = {name: getattr(last, name) for name in Answer.__struct_fields__}
    return {**fields, "logprobs": [one for part in parts for one in part.logprobs or ()] or None}


def tool_call(call: ToolCall) -> replies.ToolCall:
    """The call."""
    function = Function(name=call.name, arguments=call.arguments, index=call.index)
    return replies.ToolCall(function=function, id=call.id or "")


def _logprob(token: TokenLogprob) -> replies.TokenLogprob:
    return replies.TokenLogprob(
        token=token.bytes.decode("utf-8", "replace"),
        logprob=token.logprob,
        bytes=list(token.bytes),
        top_logprobs=[_logprob(one) for one in token.top] or None,
    )
