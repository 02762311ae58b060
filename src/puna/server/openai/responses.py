"""/v1/responses: answers that may be kept, so that a conversation goes on from the last one's id."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from puna.chat.conversation import Message, ToolChoice, read_tool_choice
from puna.options import INFERENCE, OFF
from puna.server import fields
from puna.server.caller import caller_of
from puna.server.errors import Refused
from puna.server.http import ignored_header, json_response, read_query, while_connected
from puna.server.openai.body import (
    ReasoningBody,
    SampledBody,
    asked_of,
    check_ignored,
    check_top_logprobs,
    options_of,
    read_request,
    think_of,
)
from puna.server.openai.building import Building, ResponseDocument, ResponseEventDocument
from puna.server.openai.errors import error_response
from puna.server.openai.formats import read_format
from puna.server.openai.items import input_items, messages_of_items
from puna.server.openai.messages import allowed, tools_of
from puna.server.openai.usage import new_id, now
from puna.server.routing import route
from puna.server.sse import stream_sse
from puna.server.state import AppState
from puna.services.asked import ChatRequest
from puna.services.inference import Answer
from puna.services.responses import Item, KeptResponse

_ENCRYPTED = "reasoning.encrypted_content"
_LOGPROBS = "message.output_text.logprobs"
_TRUNCATIONS = ("auto", "disabled")
_MOST_PAIRS, _LONGEST_KEY, _LONGEST_VALUE = 16, 64, 512


class TextBody(msgspec.Struct, kw_only=True):
    """How the answer's text is to be."""

    format: fields.Object = None


class ResponseBody(SampledBody, kw_only=True):
    """The body. From `think` on the fields are extensions; the last two are refused."""

    input: fields.Parts = None
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool = True
    tools: list[dict[str, Any]] = msgspec.field(default_factory=list)
    tool_choice: fields.ToolChoice = None
    parallel_tool_calls: bool = True
    text: TextBody = msgspec.field(default_factory=TextBody)
    reasoning: ReasoningBody = msgspec.field(default_factory=ReasoningBody)
    max_output_tokens: int | None = None
    truncation: str = "disabled"
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    include: list[str] = msgspec.field(default_factory=list)
    top_logprobs: int = 0
    think: fields.Think = None
    chat_template_kwargs: dict[str, Any] = msgspec.field(default_factory=dict)
    conversation: Any = None
    prompt: Any = None


class RetrieveQuery(msgspec.Struct):
    """The query of GET /v1/responses/{id}."""

    stream: bool = False


class ItemsQuery(msgspec.Struct):
    """The query of GET /v1/responses/{id}/input_items."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    after: str = ""


class CountDocument(TypedDict):
    """How many tokens a prompt has."""

    object: str
    input_tokens: int


class DeletedDocument(TypedDict):
    """What is told of a response that is gone."""

    id: str
    object: str
    deleted: bool


class ItemsDocument(TypedDict):
    """A page of items."""

    object: str
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


def routes(state: AppState) -> list[Route]:
    """The routes."""
    does = _Responses(state)
    return [
        route(
            "/v1/responses",
            does.create,
            "POST",
            opens=INFERENCE,
            body=ResponseBody,
            answer=ResponseDocument,
            events=ResponseEventDocument,
        ),
        route(
            "/v1/responses/input_tokens",
            does.count,
            "POST",
            opens=INFERENCE,
            body=ResponseBody,
            answer=CountDocument,
        ),
        route(
            "/v1/responses/{id}",
            does.retrieve,
            "GET",
            opens=INFERENCE,
            query=RetrieveQuery,
            answer=ResponseDocument,
        ),
        route("/v1/responses/{id}", does.delete, "DELETE", opens=INFERENCE, answer=DeletedDocument),
        route(
            "/v1/responses/{id}/input_items",
            does.items,
            "GET",
            opens=INFERENCE,
            query=ItemsQuery,
            answer=ItemsDocument,
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Responses:
    state: AppState

    async def create(self, request: Request) -> Response:
        """POST /v1/responses."""
        body, ignored = await self._read(request)
        given = await asyncio.to_thread(self._given, request, body)
        asked = await asyncio.to_thread(self._asked, request, body, given)
        answer = await self.state.inference.chat(asked)
        ignored += [f"options.{name}" for name in answer.ignored]
        check_ignored(request, ignored)
        keeps = body.store and self.state.settings.responses != OFF
        building = Building(_document(body, keeps), tells_thinking=_ENCRYPTED in body.include)
        owner = caller_of(request).owner if keeps else None
        if not body.stream:
            work = self._whole(building, answer, given, owner)
            return json_response(
                await while_connected(request.receive, work), headers=ignored_header(ignored)
            )
        events = self._events(building, answer, given, owner)
        response = stream_sse(events, self.state.explain, refusal=error_response, failure=building.failed)
        response.headers.update(ignored_header(ignored))
        return response

    async def count(self, request: Request) -> Response:
        """POST /v1/responses/input_tokens: how many tokens a request's prompt has."""
        body, ignored = await self._read(request)
        given = await asyncio.to_thread(self._given, request, body)
        asked = await asyncio.to_thread(self._asked, request, body, given)
        tokens = await while_connected(request.receive, self.state.inference.count(asked))
        document: CountDocument = {"object": "response.input_tokens", "input_tokens": tokens}
        return json_response(document, headers=ignored_header(ignored))

    async def retrieve(self, request: Request) -> Response:
        """GET /v1/responses/{id}."""
        if read_query(request, RetrieveQuery).stream:
            raise Refused(400, "a response that is kept cannot be streamed again", param="stream")
        return json_response((await self._kept(request)).document)

    async def delete(self, request: Request) -> Response:
        """DELETE /v1/responses/{id}."""
        id, owner = request.path_params["id"], caller_of(request).owner
        await asyncio.to_thread(self.state.responses.delete, id, owner)
        return json_response(DeletedDocument(id=id, object="response", deleted=True))

    async def items(self, request: Request) -> Response:
        """GET /v1/responses/{id}/input_items."""
        query = read_query(request, ItemsQuery)
        found = list((await self._kept(request)).input)
        if query.order != "asc":
            found.reverse()
        if query.after:
            places = [index for index, item in enumerate(found) if item["id"] == query.after]
            found = found[places[0] + 1 :] if places else []
        page = found[: query.limit]
        document: ItemsDocument = {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(found) > query.limit,
        }
        return json_response(document)

    async def _read(self, request: Request) -> tuple[ResponseBody, list[str]]:
        body, ignored = await read_request(request, ResponseBody, self.state.limits)
        _check(body)
        ignored += [f"tools.{kind}" for kind in _other_tools(body.tools)]
        ignored += [f"include.{name}" for name in body.include if name not in (_ENCRYPTED, _LOGPROBS)]
        check_ignored(request, ignored)
        return body, ignored

    async def _kept(self, request: Request) -> KeptResponse:
        owner = caller_of(request).owner
        return await asyncio.to_thread(self.state.responses.get, request.path_params["id"], owner)

    def _asked(self, request: Request, body: ResponseBody, given: Sequence[Item]) -> ChatRequest:
        """What the body asks for, with all that went before. Raises: PunaError."""
        messages = messages_of_items([*self._before(request, body), *given])
        if body.instructions:
            messages.insert(0, Message("system", body.instructions))
        functions = [_as_in_chat(tool) for tool in body.tools if tool.get("type") == "function"]
        choice, tools = allowed(body.tool_choice, tools_of(functions))
        return ChatRequest(
            **{**asked_of(request, body), "options": options_of(body, body.max_output_tokens)},
            format=read_format(body.text.format, "text.format"),
            think=think_of(body.reasoning.effort, body.think),
            truncate=body.truncation == "auto",
            tell_thinking=True,
            shift=body.shift,
            logprobs=bool(body.top_logprobs) or _LOGPROBS in body.include,
            top_logprobs=body.top_logprobs,
            messages=messages,
            tools=tools,
            tool_choice=_tool_choice(choice),
            parallel_tool_calls=body.parallel_tool_calls,
            variables=body.chat_template_kwargs,
        )

    def _before(self, request: Request, body: ResponseBody) -> list[Item]:
        if not body.previous_response_id:
            return []
        return self.state.responses.conversation(body.previous_response_id, caller_of(request).owner)

    def _given(self, request: Request, body: ResponseBody) -> list[Item]:
        """The items of the input, with what is kept in the place of references. Raises: PunaError."""
        owner = caller_of(request).owner
        return [
            self.state.responses.item(item["id"], owner) if item["type"] == "item_reference" else item
            for item in input_items(body.input)
        ]

    async def _events(
        self, building: Building, answer: Answer, given: Sequence[Item], owner: str | None
    ) -> AsyncGenerator[bytes, None]:
        """The response as it comes."""
        begun = False
        async with aclosing(answer.events) as events:
            async for event in events:
                if not begun:
                    # The model is there and the prompt read: until now an error could make the status.
                    begun = True
                    for first in building.began():
                        yield building.encoded(first)
                for each in building.feed(event):
                    yield building.encoded(each)
        await self._keep(building, given, owner)
        yield building.encoded(building.ended())

    async def _whole(
        self, building: Building, answer: Answer, given: Sequence[Item], owner: str | None
    ) -> ResponseDocument:
        """The response in one piece."""
        async with aclosing(answer.events) as events:
            async for event in events:
                for _ in building.feed(event):
                    pass
        await self._keep(building, given, owner)
        return building.document

    async def _keep(self, building: Building, given: Sequence[Item], owner: str | None) -> None:
        """Keep the response, so that it is there when its client hears that it is complete."""
        if owner is None:
            return
        document = building.document
        previous = document["previous_response_id"] or ""
        kept = KeptResponse(document["id"], {**document}, given, previous)
        await asyncio.to_thread(self.state.responses.keep, kept, owner)


def _check(body: ResponseBody) -> None:
    """Raises Refused for what is not supported, or makes no sense."""
    check_top_logprobs(body.top_logprobs)
    for name in ("conversation", "prompt"):
        if getattr(body, name) is not None:
            raise Refused(400, f"{name!r} is not supported; see previous_response_id", param=name)
    if body.truncation not in _TRUNCATIONS:
        raise Refused(400, "truncation must be auto or disabled", param="truncation")
    pairs = body.metadata.items()
    if len(pairs) > _MOST_PAIRS or any(
        len(key) > _LONGEST_KEY or len(value) > _LONGEST_VALUE for key, value in pairs
    ):
        raise Refused(
            400,
            f"metadata has at most {_MOST_PAIRS} keys of {_LONGEST_KEY} characters, "
            f"and values of {_LONGEST_VALUE}",
            param="metadata",
        )


def _other_tools(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """The types of tools that a service would run itself; there are none here."""
    return [str(tool.get("type")) for tool in tools if tool.get("type") != "function"]


def _as_in_chat(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A function as /v1/chat/completions has it."""
    function = {name: value for name, value in tool.items() if name != "type" and value is not None}
    return {"type": "function", "function": function}


def _tool_choice(value: object) -> ToolChoice:
    """A choice, with a function's name beside its type. Raises: InvalidOption."""
    if isinstance(value, dict) and "name" in value:
        value = {"type": "function", "function": {"name": value["name"]}}
    return read_tool_choice(value)


def _document(body: ResponseBody, keeps: bool) -> ResponseDocument:
    """A response that has only begun."""
    return {
        "id": new_id("resp_"),
        "object": "response",
        "created_at": now(),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": body.previous_response_id or None,
        "reasoning": {"effort": body.reasoning.effort, "summary": body.reasoning.summary},
        "service_tier": "default",
        "store": keeps,
        "temperature": body.temperature,
        "text": {"format": body.text.format or {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools,
        "top_logprobs": body.top_logprobs,
        "top_p": body.top_p,
        "truncation": body.truncation,
        "usage": None,
        "user": None,
        "metadata": body.metadata,
    }
