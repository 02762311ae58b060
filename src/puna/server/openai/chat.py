"""POST /v1/chat/completions."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from puna.chat.conversation import read_tool_choice
from puna.chat.events import Content, Thinking, ToolCall
from puna.engine.events import TokenLogprob
from puna.errors import InvalidOption
from puna.options import INFERENCE
from puna.server import fields
from puna.server.http import ignored_header, json_response, while_connected
from puna.server.openai.body import (
    DONE,
    ChoicesBody,
    ReasoningBody,
    asked_of,
    bias_of,
    check_choices,
    check_ignored,
    check_top_logprobs,
    options_of,
    read_request,
    seeded,
    think_of,
)
from puna.server.openai.errors import error_event, error_response
from puna.server.openai.formats import read_format
from puna.server.openai.messages import MessageBody, allowed, messages_of, tools_of
from puna.server.openai.usage import (
    LogprobDocument,
    UsageDocument,
    fingerprint,
    logprob_document,
    new_id,
    now,
    usage,
)
from puna.server.routing import route
from puna.server.sse import sse_event, stream_sse
from puna.server.state import AppState
from puna.services.asked import ChatRequest
from puna.services.choices import merged
from puna.services.conversation import Finished
from puna.services.inference import Answer, AnswerEvent, Logprobs


class ChatBody(ChoicesBody, kw_only=True):
    """The body. From `think` on the fields are extensions."""

    messages: list[MessageBody] = msgspec.field(default_factory=list)
    tools: list[dict[str, Any]] = msgspec.field(default_factory=list)
    tool_choice: fields.ToolChoice = None
    parallel_tool_calls: bool = True
    response_format: fields.Object = None
    reasoning_effort: Any = None
    reasoning: ReasoningBody = msgspec.field(default_factory=ReasoningBody)
    logprobs: bool = False
    top_logprobs: int = 0
    max_completion_tokens: int | None = None
    think: fields.Think = None
    truncate: bool = False
    chat_template_kwargs: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def most_tokens(self) -> int | None:
        """How many tokens an answer may have."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CalledFunction(TypedDict):
    """A function that the model calls, its arguments as text."""

    name: NotRequired[str]
    arguments: str


class CallDocument(TypedDict):
    """A call; a stream tells it in two parts, by its index."""

    index: NotRequired[int]
    id: NotRequired[str]
    type: NotRequired[str]
    function: CalledFunction


class LogprobsDocument(TypedDict):
    """The log-probabilities of a choice or a part of it."""

    content: list[LogprobDocument]
    refusal: None


class DeltaDocument(TypedDict):
    """What is new of a message."""

    role: NotRequired[str]
    content: NotRequired[str]
    reasoning: NotRequired[str]
    tool_calls: NotRequired[list[CallDocument]]


class ChunkChoice(TypedDict):
    """What is new of a choice."""

    index: int
    delta: DeltaDocument
    logprobs: LogprobsDocument | None
    finish_reason: str | None


class MessageDocument(TypedDict):
    """A message."""

    role: str
    content: str | None
    refusal: None
    reasoning: NotRequired[str]
    tool_calls: NotRequired[list[CallDocument]]


class ChoiceDocument(TypedDict):
    """A choice."""

    index: int
    message: MessageDocument
    logprobs: LogprobsDocument | None
    finish_reason: str


class ReplyDocument(TypedDict):
    """What every document of an answer says; `usage` is null in all chunks but the last."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    usage: NotRequired[UsageDocument | None]


class ChunkDocument(ReplyDocument):
    """A chunk of a stream."""

    choices: list[ChunkChoice]


class ChatDocument(ReplyDocument):
    """An answer in one piece."""

    choices: list[ChoiceDocument]


def routes(state: AppState) -> list[Route]:
    """The route."""
    return [
        route(
            "/v1/chat/completions",
            _Chat(state).complete,
            "POST",
            opens=INFERENCE,
            body=ChatBody,
            answer=ChatDocument,
            events=ChunkDocument,
        )
    ]


@dataclass(frozen=True, slots=True)
class _Chat:
    state: AppState

    async def complete(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        body, ignored = await read_request(request, ChatBody, self.state.limits)
        check_choices("n", body.n)
        asked = await asyncio.to_thread(chat_request, request, body)
        answers = [await self.state.inference.chat(seeded(asked, index)) for index in range(body.n)]
        ignored += [f"options.{name}" for name in answers[0].ignored]
        check_ignored(request, ignored)
        reply = _Reply(body.model, fingerprint(answers[0].digest), body.logprobs)
        if not body.stream:
            whole = await while_connected(request.receive, _whole(reply, answers))
            return json_response(whole, headers=ignored_header(ignored))
        chunks = _chunks(reply, answers, body.stream_options.include_usage)
        response = stream_sse(chunks, self.state.explain, refusal=error_response, failure=error_event)
        response.headers.update(ignored_header(ignored))
        return response


def chat_request(request: Request, body: ChatBody) -> ChatRequest:
    """What the body asks for. Raises: Refused, InvalidOption."""
    check_top_logprobs(body.top_logprobs)
    if body.top_logprobs and not body.logprobs:
        raise InvalidOption("top_logprobs needs logprobs to be true")
    choice, tools = allowed(body.tool_choice, tools_of(body.tools))
    effort = body.reasoning_effort if body.reasoning_effort is not None else body.reasoning.effort
    return ChatRequest(
        **{**asked_of(request, body), "options": options_of(body, body.most_tokens, body.stop)},
        format=read_format(body.response_format),
        think=think_of(effort, body.think),
        truncate=body.truncate,
        tell_thinking=True,
        shift=body.shift,
        logprobs=body.logprobs,
        top_logprobs=body.top_logprobs,
        logit_bias=bias_of(body.logit_bias),
        messages=messages_of(body.messages),
        tools=tools,
        tool_choice=read_tool_choice(choice),
        parallel_tool_calls=body.parallel_tool_calls,
        variables=body.chat_template_kwargs,
    )


@dataclass(frozen=True, slots=True)
class _Reply:
    """What all documents of one answer have in common.

    Attributes:
        logprobs: whether the log-probabilities are told.
    """

    model: str
    fingerprint: str
    logprobs: bool
    id: str = field(default_factory=lambda: new_id("chatcmpl-"))
    created: int = field(default_factory=now)

    def document(self, kind: str) -> ReplyDocument:
        """What each of the documents says."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def logprobs_document(self, tokens: Sequence[TokenLogprob]) -> LogprobsDocument | None:
        """The log-probabilities of a choice or a part of it."""
        if not self.logprobs:
            return None
        return {"content": [logprob_document(token) for token in tokens], "refusal": None}


@dataclass(slots=True)
class _Choice:
    """One choice, as far as it has come.

    Attributes:
        tokens: those that have not been told yet.
        calls: so many there were.
        finished: how it ended.
    """

    tokens: list[TokenLogprob] = field(default_factory=list)
    calls: int = 0
    finished: Finished | None = None

    def deltas(self, event: AnswerEvent) -> Iterator[DeltaDocument]:
        """What an event adds to the message, as a stream tells it."""
        if isinstance(event, Logprobs):
            self.tokens += event.tokens
        elif isinstance(event, Content):
            yield {"content": event.text}
        elif isinstance(event, Thinking):
            yield {"reasoning": event.text}
        elif isinstance(event, ToolCall):
            whole = call_document(event)
            function = whole["function"]
            begun: CallDocument = {"index": self.calls, **whole, "function": {**function, "arguments": ""}}
            yield {"tool_calls": [begun]}
            yield {"tool_calls": [{"index": self.calls, "function": {"arguments": function["arguments"]}}]}
            self.calls += 1
        elif isinstance(event, Finished):
            self.finished = event
            yield {}

    def told(self) -> list[TokenLogprob]:
        """The tokens that are to be told now."""
        tokens, self.tokens = self.tokens, []
        return tokens

    @property
    def reason(self) -> str | None:
        """Why it ended, None while it has not."""
        return finish_reason(self.finished, self.calls) if self.finished else None


def finish_reason(finished: Finished, calls: int) -> str:
    """Why an answer with so many calls ended."""
    if finished.reason == "length":
        return "length"
    return "tool_calls" if calls else "stop"


def call_document(call: ToolCall) -> CallDocument:
    """A call, its arguments as text."""
    arguments = msgspec.json.encode(call.arguments).decode()
    return {
        "id": call.id or new_id("call_"),
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


async def _chunks(
    reply: _Reply, answers: Sequence[Answer], include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The answers as they come."""
    choices = [_Choice() for _ in answers]
    common = reply.document("chat.completion.chunk")
    if include_usage:
        common["usage"] = None

    def chunk(index: int, delta: DeltaDocument) -> bytes:
        choice = choices[index]
        told: ChunkChoice = {
            "index": index,
            "delta": delta,
            "logprobs": reply.logprobs_document(choice.told()),
            "finish_reason": choice.reason,
        }
        document: ChunkDocument = {**common, "choices": [told]}
        return sse_event(document)

    begun: set[int] = set()
    async with aclosing(merged(answers)) as events:
        async for index, event in events:
            if index not in begun:
                # The model is there and the prompt read: until now an error could still make the status.
                begun.add(index)
                yield chunk(index, {"role": "assistant", "content": ""})
            for delta in choices[index].deltas(event):
                yield chunk(index, delta)
    if include_usage:
        ended = [choice.finished for choice in choices if choice.finished]
        last: ChunkDocument = {**common, "choices": [], "usage": usage(ended[:1], ended)}
        yield sse_event(last)
    yield DONE


@dataclass(slots=True)
class _Message:
    """A choice that is told as a whole."""

    content: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    calls: list[CallDocument] = field(default_factory=list)
    tokens: list[TokenLogprob] = field(default_factory=list)
    finished: Finished | None = None

    def add(self, event: AnswerEvent) -> None:
        """Take an event in."""
        if isinstance(event, Content):
            self.content.append(event.text)
        elif isinstance(event, Thinking):
            self.thinking.append(event.text)
        elif isinstance(event, ToolCall):
            self.calls.append(call_document(event))
        elif isinstance(event, Logprobs):
            self.tokens += event.tokens
        elif isinstance(event, Finished):
            self.finished = event

    def document(self) -> MessageDocument:
        """The message."""
        content = "".join(self.content)
        message: MessageDocument = {
            "role": "assistant",
            "content": content if content or not self.calls else None,
            "refusal": None,
        }
        if self.thinking:
            message["reasoning"] = "".join(self.thinking)
        if self.calls:
            message["tool_calls"] = self.calls
        return message


async def _whole(reply: _Reply, answers: Sequence[Answer]) -> ChatDocument:
    """The answers in one piece."""
    messages = [_Message() for _ in answers]
    async with aclosing(merged(answers)) as events:
        async for index, event in events:
            messages[index].add(event)
    ended = [message.finished for message in messages if message.finished]
    choices: list[ChoiceDocument] = [
        {
            "index": index,
            "message": message.document(),
            "logprobs": reply.logprobs_document(message.tokens),
            "finish_reason": finish_reason(finished, len(message.calls)),
        }
        for index, (message, finished) in enumerate(zip(messages, ended, strict=True))
    ]
    return {**reply.document("chat.completion"), "choices": choices, "usage": usage(ended[:1], ended)}
