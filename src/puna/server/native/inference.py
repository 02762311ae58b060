"""The routes that models answer: Ollama's, and those for tokens, ranks and running requests."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from puna.chat.conversation import read_tool_choice
from puna.chat.events import Content, Thinking, ToolCall
from puna.engine.events import PromptLogprobs
from puna.errors import InvalidOption, ModelNotFound
from puna.options import INFERENCE, MANAGE
from puna.sampling.parameters import MAX_TOP_LOGPROBS
from puna.scheduler.keep_alive import parse_keep_alive
from puna.server.caller import caller_of
from puna.server.errors import Refused
from puna.server.http import JSON, ignored_header, json_response, read_json, stream_ndjson, while_connected
from puna.server.middleware.requests import note
from puna.server.names import name_to_run
from puna.server.native.inference_wire import (
    AnswerBody,
    Body,
    CancelReply,
    ChatBody,
    ChatReply,
    DebugOnWire,
    DetokenizeBody,
    EmbedBody,
    EmbeddingsBody,
    EmbeddingsReply,
    EmbedReply,
    GenerateBody,
    GenerateReply,
    InMemoryReply,
    LogprobOnWire,
    Part,
    RanksReply,
    RerankBody,
    TextReply,
    TokenizeBody,
    TokensReply,
    call_on_wire,
    chat_reply,
    embed_reply,
    generate_reply,
    in_memory_on_wire,
    logprob_on_wire,
    rerank_reply,
)
from puna.server.routing import route
from puna.server.state import AppState
from puna.services.asked import Asked, ChatRequest, CompletionRequest, EmbedRequest, only_format
from puna.services.conversation import Finished
from puna.services.figures import figures
from puna.services.inference import Answer, Logprobs, Prompted, Rendered
from puna.services.loaded import models_in_memory
from puna.services.messages import message_of, pictures

T = TypeVar("T", bound=msgspec.Struct)
Reply: TypeAlias = Callable[..., GenerateReply | ChatReply]

_NOT_ON_WIRE = (Prompted, PromptLogprobs)

_encode = msgspec.json.Encoder().encode


def routes(state: AppState) -> list[Route]:
    """The routes."""
    does = _Routes(state)
    return [
        route(
            "/api/generate",
            does.generate,
            "POST",
            opens=INFERENCE,
            body=GenerateBody,
            answer=GenerateReply,
            lines=GenerateReply,
        ),
        route(
            "/api/chat", does.chat, "POST", opens=INFERENCE, body=ChatBody, answer=ChatReply, lines=ChatReply
        ),
        route("/api/embed", does.embed, "POST", opens=INFERENCE, body=EmbedBody, answer=EmbedReply),
        route(
            "/api/embeddings",
            does.embeddings,
            "POST",
            opens=INFERENCE,
            body=EmbeddingsBody,
            answer=EmbeddingsReply,
        ),
        route("/api/tokenize", does.tokenize, "POST", opens=INFERENCE, body=TokenizeBody, answer=TokensReply),
        route(
            "/api/detokenize", does.detokenize, "POST", opens=INFERENCE, body=DetokenizeBody, answer=TextReply
        ),
        route("/api/rerank", does.rerank, "POST", opens=INFERENCE, body=RerankBody, answer=RanksReply),
        route("/api/ps", does.ps, "GET", opens=INFERENCE, answer=InMemoryReply),
        route("/api/requests/{id}", does.cancel, "DELETE", opens=INFERENCE, answer=CancelReply),
    ]


@dataclass(frozen=True, slots=True)
class _Routes:
    state: AppState

    async def generate(self, request: Request) -> Response:
        """POST /api/generate."""
        body = await self._body(request, GenerateBody)
        _check_top_logprobs(body)
        common = {**_asked(request, body), **_answered(body)}
        if not body.model:
            raise ModelNotFound("model '' not found")
        if not body.prompt:
            return await self._load(request, body, generate_reply, "generate")
        asked = CompletionRequest(
            **common,
            prompt=body.prompt,
            suffix=body.suffix,
            system=body.system,
            template=body.template,
            context=body.context,
            raw=body.raw,
            images=await asyncio.to_thread(pictures, body.images),
        )
        if body.debug_render_only:
            rendered = self.state.inference.render(asked)
            return _debug(body, await while_connected(request.receive, rendered), generate_reply)
        answer = await self.state.inference.complete(asked)
        return await self._answer(request, body, answer, generate_reply)

    async def chat(self, request: Request) -> Response:
        """POST /api/chat."""
        body = await self._body(request, ChatBody)
        _check_top_logprobs(body)
        common = {**_asked(request, body), **_answered(body)}
        _check_model(body.model)
        if not body.messages:
            return await self._load(request, body, chat_reply, "chat")
        asked = ChatRequest(
            **common,
            messages=await asyncio.to_thread(lambda: [message_of(one) for one in body.messages]),
            tools=body.tools,
            tool_choice=read_tool_choice(body.tool_choice),
        )
        if body.debug_render_only:
            rendered = self.state.inference.render(asked)
            return _debug(body, await while_connected(request.receive, rendered), chat_reply)
        answer = await self.state.inference.chat(asked)
        return await self._answer(request, body, answer, chat_reply)

    async def embed(self, request: Request) -> Response:
        """POST /api/embed."""
        body = await self._body(request, EmbedBody)
        common = _asked(request, body)
        if not body.model:
            raise ModelNotFound("model '' not found")
        inputs = _inputs(body.input)
        if not inputs:
            work = self.state.inference.load(Asked(**common), "", _not_pulled)
            await while_connected(request.receive, work)
            return json_response(EmbedReply(model=body.model, embeddings=[]))
        asked = EmbedRequest(**common, inputs=inputs, truncate=body.truncate, dimensions=body.dimensions)
        made = await while_connected(request.receive, self.state.inference.embed(asked, _not_pulled))
        document = embed_reply(body.model, made)
        # A thousand vectors take the encoder tens of milliseconds.
        return Response(await asyncio.to_thread(_encode, document), 200, ignored_header(made.ignored), JSON)

    async def embeddings(self, request: Request) -> Response:
        """POST /api/embeddings."""
        body = await self._body(request, EmbeddingsBody)
        common = _asked(request, body)
        _check_model(body.model)
        inference = self.state.inference
        if not body.prompt:
            await while_connected(request.receive, inference.load(Asked(**common), "", _not_pulled))
            return json_response(EmbeddingsReply(embedding=[]))
        asked = EmbedRequest(**common, inputs=[body.prompt], truncate=body.truncate, normalize=False)
        made = await while_connected(request.receive, inference.embed(asked, _not_pulled))
        return json_response(EmbeddingsReply(embedding=made.vectors[0]), headers=ignored_header(made.ignored))

    async def tokenize(self, request: Request) -> Response:
        """POST /api/tokenize."""
        body = await self._body(request, TokenizeBody)
        _check_model(body.model)
        tokens = await self.state.inference.tokenize(
            name_to_run(body.model),
            body.prompt or body.content,
            add_special=body.add_special,
            parse_special=body.parse_special,
        )
        return json_response(TokensReply(model=body.model, tokens=tokens, count=len(tokens)))

    async def detokenize(self, request: Request) -> Response:
        """POST /api/detokenize."""
        body = await self._body(request, DetokenizeBody)
        _check_model(body.model)
        text = await self.state.inference.detokenize(
            name_to_run(body.model), body.tokens, render_special=body.render_special
        )
        return json_response(TextReply(model=body.model, content=text, text=text))

    async def rerank(self, request: Request) -> Response:
        """POST /api/rerank, in the words of Jina's API."""
        body = await self._body(request, RerankBody)
        _check_model(body.model)
        work = self.state.inference.rank(Asked(**_asked(request, body)), body.query, body.documents)
        made = await while_connected(request.receive, work)
        return json_response(rerank_reply(body, made))

    async def ps(self, request: Request) -> Response:
        """GET /api/ps."""
        loaded = self.state.scheduler.loaded()
        models = await asyncio.to_thread(models_in_memory, self.state.library, loaded)
        return json_response(in_memory_on_wire(models))

    async def cancel(self, request: Request) -> Response:
        """DELETE /api/requests/{id}: end a request of one's own; who manages the server can end any."""
        id = request.path_params["id"]
        caller = caller_of(request)
        owner = None if caller.may_manage else caller.key
        if not self.state.inference.requests.cancel(id, owner):
            raise Refused(404, f"request '{id[:100]}' not found")
        return json_response(CancelReply(status="success"))

    async def _body(self, request: Request, kind: type[T]) -> T:
        return await read_json(request, kind, self.state.limits)

    async def _load(self, request: Request, body: AnswerBody, reply: Reply, act: str) -> Response:
        """What a request without a prompt means: that the model be loaded, or unloaded."""
        asked = Asked(**_asked(request, body))
        if asked.keep_alive == 0:
            if body.force and not caller_of(request).may_manage:
                raise Refused(403, f"force needs an API key with the scope {MANAGE!r}")
            await self.state.inference.unload(asked.model, force=body.force)
            return json_response(reply(body.model, Part(), "unload"))
        await while_connected(request.receive, self.state.inference.load(asked, act))
        return json_response(reply(body.model, Part(), "load"))

    async def _answer(self, request: Request, body: AnswerBody, answer: Answer, reply: Reply) -> Response:
        if body.stream:
            response = stream_ndjson(_lines(answer, body.model, reply), self.state.explain)
            response.headers.update(ignored_header(answer.ignored))
            return response
        whole = await while_connected(request.receive, _whole(answer, body.model, reply))
        return json_response(whole, headers=ignored_header(answer.ignored))


async def _lines(answer: Answer, model: str, reply: Reply) -> AsyncGenerator[bytes, None]:
    """The answer's pieces as they come."""
    logprobs: list[LogprobOnWire] = []
    async with aclosing(answer.events) as events:
        async for event in events:
            if isinstance(event, Logprobs):
                logprobs += map(logprob_on_wire, event.tokens)
            elif isinstance(event, Finished):
                yield _encode(_last(model, Part(logprobs=logprobs), event, reply))
                return
            elif not isinstance(event, _NOT_ON_WIRE):
                part = Part(logprobs=logprobs)
                logprobs = []
                _add(part, event)
                yield _encode(reply(model, part))


async def _whole(answer: Answer, model: str, reply: Reply) -> GenerateReply | ChatReply:
    """The answer in one piece."""
    part = Part()
    content: list[str] = []
    thinking: list[str] = []
    async with aclosing(answer.events) as events:
        async for event in events:
            if isinstance(event, Logprobs):
                part.logprobs += map(logprob_on_wire, event.tokens)
            elif isinstance(event, Content):
                content.append(event.text)
            elif isinstance(event, Thinking):
                thinking.append(event.text)
            elif isinstance(event, ToolCall):
                part.calls.append(call_on_wire(event))
            elif isinstance(event, Finished):
                finished = event
    part.content, part.thinking = "".join(content), "".join(thinking)
    return _last(model, part, finished, reply)


def _add(part: Part, event: Content | Thinking | ToolCall) -> None:
    if isinstance(event, Content):
        part.content = event.text
    elif isinstance(event, Thinking):
        part.thinking = event.text
    else:
        part.calls = [call_on_wire(event)]


def _last(model: str, part: Part, finished: Finished, reply: Reply) -> GenerateReply | ChatReply:
    context = {"context": list(finished.context)} if finished.context else {}
    return reply(model, part, finished.reason, **figures(finished), **context)


def _debug(body: AnswerBody, rendered: Rendered, reply: Reply) -> Response:
    debug = DebugOnWire(rendered_template=rendered.text, image_count=rendered.images)
    return json_response(reply(body.model, Part(), debug=debug))


def _asked(request: Request, body: Body) -> dict[str, Any]:
    """What every request to a model says."""
    caller = caller_of(request)
    note(request, model=body.model[:100])
    return {
        "model": name_to_run(body.model),
        "options": body.options,
        "keep_alive": None if body.keep_alive is None else parse_keep_alive(body.keep_alive),
        "id": caller.id,
        "key": caller.key,
    }


def _answered(body: AnswerBody) -> dict[str, Any]:
    """What every request for an answer says. Raises: InvalidOption."""
    if body.think is not None and not isinstance(body.think, bool | str):
        raise InvalidOption(
            'think must be a boolean or string ("high", "medium", "low", "max", true, or false)'
        )
    return {
        "format": only_format(body.format, body.grammar),
        "think": body.think,
        "truncate": body.truncate,
        "shift": body.shift,
        "logprobs": body.logprobs,
        "top_logprobs": body.top_logprobs if body.logprobs else 0,
        "adapters": body.adapters,
    }


def _inputs(value: object) -> list[str]:
    """The texts to embed; none where there is nothing to. Raises: InvalidOption."""
    if value is None or value == "":
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidOption("invalid input type")
    return texts


def _check_top_logprobs(body: AnswerBody) -> None:
    if not 0 <= body.top_logprobs <= MAX_TOP_LOGPROBS:
        raise InvalidOption(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}")


def _check_model(name: str) -> None:
    if not name.strip():
        raise InvalidOption("model is required")


def _not_pulled(name: str) -> str:
    return f'model "{name}" not found, try pulling it first'
