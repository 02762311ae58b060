"""POST /v1/chat/completions."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

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
from puna.server.http import json_response, while_connected
from puna.server.openai.body import (
    DONE,
    ChoicesBody,
    ReasoningBody,
    asked_of,
    bias_of,
    check_choices,
    check_ignored,
    check_top_logprobs,
    ignored_header,
    options_of,
    read_request,
    seeded,
    think_of,
)
from puna.server.openai.errors import error_event, error_response
from puna.server.openai.formats import read_format
from puna.server.openai.messages import MessageBody, messages_of, tools_of
from puna.server.openai.usage import fingerprint, logprob_document, new_id, now, usage
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


def routes(state: AppState) -> list[Route]:
    """The route."""
    return [
        route(
            "/v1/chat/completions",
            _Chat(state).complete,
            "POST",
            opens=INFERENCE,
            body=ChatBody,
            answer=dict[str, Any],
            events=dict[str, Any],
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
        tools=tools_of(body.tools),
        tool_choice=read_tool_choice(body.tool_choice),
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

    def document(self, kind: str, choices: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
        """One of the documents."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            **more,
        }

    def logprobs_document(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
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

    def deltas(self, event: AnswerEvent) -> Iterator[dict[str, Any]]:
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
            begun = {**whole, "function": {**function, "arguments": ""}}
            yield {"tool_calls": [{"index": self.calls, **begun}]}
            rest = {"index": self.calls, "function": {"arguments": function["arguments"]}}
            yield {"tool_calls": [rest]}
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


def call_document(call: ToolCall) -> dict[str, Any]:
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
    counted = {"usage": None} if include_usage else {}

    def chunk(index: int, delta: Mapping[str, Any]) -> bytes:
        choice = choices[index]
        document = {
            "index": index,
            "delta": delta,
            "logprobs": reply.logprobs_document(choice.told()),
            "finish_reason": choice.reason,
        }
        return sse_event(reply.document("chat.completion.chunk", [document], **counted))

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
        yield sse_event(reply.document("chat.completion.chunk", [], usage=usage(ended[:1], ended)))
    yield DONE


@dataclass(slots=True)
class _Message:
    """A choice that is told as a whole."""

    content: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
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

    def document(self) -> dict[str, Any]:
        """The message."""
        content = "".join(self.content)
        thinking = "".join(self.thinking)
        return {
            "role": "assistant",
            "content": content if content or not self.calls else None,
            "refusal": None,
            **({"reasoning": thinking} if thinking else {}),
            **({"tool_calls": self.calls} if self.calls else {}),
        }


async def _whole(reply: _Reply, answers: Sequence[Answer]) -> dict[str, Any]:
    """The answers in one piece."""
    messages = [_Message() for _ in answers]
    async with aclosing(merged(answers)) as events:
        async for index, event in events:
            messages[index].add(event)
    ended = [message.finished for message in messages if message.finished]
    choices = [
        {
            "index": index,
            "message": message.document(),
            "logprobs": reply.logprobs_document(message.tokens),
            "finish_reason": finish_reason(finished, len(message.calls)),
        }
        for index, (message, finished) in enumerate(zip(messages, ended, strict=True))
    ]
    return reply.document("chat.completion", choices, usage=usage(ended[:1], ended))
