"""Anthropic's routes: messages, their tokens, and models."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from puna.chat.capabilities import Capability
from puna.chat.conversation import Think
from puna.chat.events import Event
from puna.engine.events import PromptLogprobs
from puna.errors import ContextLengthExceeded
from puna.options import INFERENCE
from puna.server.anthropic.answers import Blocks, blocks_of, ending_of, new_id, usage_of
from puna.server.anthropic.asking import (
    budget_of,
    check_answer,
    check_prompt,
    format_of,
    options_of,
    think_of,
    tool_choice_of,
    tools_of,
)
from puna.server.anthropic.errors import error_event, error_response, request_id_header
from puna.server.anthropic.messages import read_messages
from puna.server.anthropic.models import ModelDocument, Models, PageDocument, PageQuery
from puna.server.anthropic.wire import (
    AnyEvent,
    CountReply,
    MessageDelta,
    MessageReply,
    MessagesBody,
    MessageStart,
    MessageStop,
    Ping,
    PromptBody,
    StreamEvent,
    Usage,
)
from puna.server.caller import caller_of
from puna.server.dialects import SpokenRoute
from puna.server.errors import ErrorAnswer, Refused
from puna.server.http import json_response, read_json, while_connected
from puna.server.middleware.requests import note, request_id
from puna.server.names import name_to_run
from puna.server.routing import route
from puna.server.sse import sse_event, stream_sse
from puna.server.state import AppState
from puna.services.asked import ChatRequest
from puna.services.conversation import Finished
from puna.services.inference import Answer, AnswerEvent, Logprobs, Prompted


def routes(state: AppState) -> list[Route]:
    """The routes."""
    does, models = _Routes(state), Models(state.library)
    return [
        route(
            "/v1/messages",
            does.messages,
            "POST",
            opens=INFERENCE,
            body=MessagesBody,
            answer=MessageReply,
            events=AnyEvent,
        ),
        route(
            "/v1/messages/count_tokens",
            does.count_tokens,
            "POST",
            opens=INFERENCE,
            body=PromptBody,
            answer=CountReply,
        ),
        route(
            "/v1/models",
            models.page,
            "GET",
            opens=INFERENCE,
            kind=SpokenRoute,
            query=PageQuery,
            answer=PageDocument,
        ),
        route(
            "/v1/models/{id:path}",
            models.one,
            "GET",
            opens=INFERENCE,
            kind=SpokenRoute,
            answer=ModelDocument,
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Routes:
    state: AppState

    async def messages(self, request: Request) -> Response:
        """POST /v1/messages."""
        body = await read_json(request, MessagesBody, self.state.limits)
        check_prompt(body)
        check_answer(body)
        asked = await self._asked(request, body, options=options_of(body), thinking_budget=budget_of(body))
        answer = await self.state.inference.chat(asked)
        if body.stream:
            return self._streamed(request, _stream(answer, body))
        whole = await while_connected(request.receive, _whole(answer, body))
        return json_response(whole, headers=request_id_header(request_id(request)))

    async def count_tokens(self, request: Request) -> Response:
        """POST /v1/messages/count_tokens."""
        body = await read_json(request, PromptBody, self.state.limits)
        check_prompt(body)
        work = self.state.inference.count(await self._asked(request, body))
        tokens = await while_connected(request.receive, work)
        return json_response(CountReply(input_tokens=tokens), headers=request_id_header(request_id(request)))

    async def _asked(self, request: Request, body: PromptBody, **more: Any) -> ChatRequest:
        caller = caller_of(request)
        note(request, model=body.model[:100])
        name = name_to_run(body.model)
        think = await self._think(name, think_of(body))
        choice = body.tool_choice
        return ChatRequest(
            model=name,
            messages=await asyncio.to_thread(read_messages, body),
            tools=tools_of(body),
            tool_choice=tool_choice_of(choice),
            parallel_tool_calls=choice is None or not choice.disable_parallel_tool_use,
            think=think,
            format=format_of(body),
            tell_prompt=True,
            id=caller.id,
            key=caller.key,
            **more,
        )

    async def _think(self, model: str, think: Think) -> Think:
        """As it is asked for, where the model can: clients ask for it whatever the model."""
        opened = await self.state.inference.open(model)
        return think if Capability.THINKING in opened.chat.capabilities else None

    def _streamed(self, request: Request, events: AsyncGenerator[bytes, None]) -> Response:
        id = request_id(request)

        def named(tell: Callable[[ErrorAnswer], Any]) -> Callable[[ErrorAnswer], Any]:
            return lambda answer: tell(replace(answer, request_id=id))

        response = stream_sse(
            events, self.state.explain, refusal=named(error_response), failure=named(error_event)
        )
        response.headers.update(request_id_header(id))
        return response


async def _stream(answer: Answer, body: MessagesBody) -> AsyncGenerator[bytes, None]:
    """The answer's pieces as they come."""
    blocks = Blocks()
    async with aclosing(_events(answer)) as events:
        async for event in events:
            if isinstance(event, Prompted):
                usage = Usage(input_tokens=event.tokens)
                message = MessageReply(id=new_id("msg"), model=body.model, usage=usage)
                pieces: list[StreamEvent] = [MessageStart(message=message), Ping()]
            elif isinstance(event, Finished):
                pieces = [*blocks.close(), *_last(event, body, called=blocks.called)]
            else:
                pieces = blocks.feed(event)
            for piece in pieces:
                yield sse_event(piece, str(piece.__struct_config__.tag))


def _last(finished: Finished, body: MessagesBody, *, called: bool) -> list[StreamEvent]:
    ending = ending_of(finished, body.stop_sequences, called=called)
    return [MessageDelta(delta=ending, usage=usage_of(finished)), MessageStop()]


async def _whole(answer: Answer, body: MessagesBody) -> MessageReply:
    """The answer in one piece."""
    said: list[Event] = []
    async with aclosing(_events(answer)) as events:
        async for event in events:
            if isinstance(event, Finished):
                finished = event
            elif not isinstance(event, Prompted):
                said.append(event)
    content = blocks_of(said)
    called = any(block.__struct_config__.tag == "tool_use" for block in content)
    ending = ending_of(finished, body.stop_sequences, called=called)
    return MessageReply(
        id=new_id("msg"),
        model=body.model,
        content=content,
        stop_reason=ending.stop_reason,
        stop_sequence=ending.stop_sequence,
        usage=usage_of(finished),
    )


async def _events(answer: Answer) -> AsyncGenerator[Event | Prompted | Finished, None]:
    """The answer's events. Raises: PunaError, with Anthropic's words for a prompt that is too long."""
    events: AsyncGenerator[AnswerEvent, None]
    async with aclosing(answer.events) as events:
        try:
            async for event in events:
                if not isinstance(event, Logprobs | PromptLogprobs):
                    yield event
        except ContextLengthExceeded as error:
            # Clients look for these words, and shorten the conversation.
            text = f"prompt is too long: {error.length} tokens > {error.limit} maximum"
            raise Refused(400, text) from error
