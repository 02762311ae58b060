"""Ollama's routes about models: which there are, what they are, making, fetching and removing them.

What takes long to import is imported when it is asked for: the server is to answer at once.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from puna.errors import DigestMismatch, ModelNotFound, StoreError
from puna.options import INFERENCE, MANAGE
from puna.progress import ProgressDocument, document
from puna.server.errors import ClientGone, Refused
from puna.server.http import Item, json_response, last_item, read_json, stream_ndjson
from puna.server.logs import facts
from puna.server.middleware.requests import note
from puna.server.names import local_name, model_name, quoted
from puna.server.routing import route
from puna.server.state import AppState
from puna.services.loaded import without_a_name
from puna.services.operations import Work
from puna.store.digest import Digest
from puna.store.name import scheme_of

if TYPE_CHECKING:
    from puna.create.request import CreateRequest
    from puna.services.models import Catalogue, Facts
    from puna.store.library import ListedModel

logger = logging.getLogger("puna.server")

_LONGEST_LENGTH = 18


class Named(msgspec.Struct):
    """A body that names a model, in one of two ways."""

    model: str = ""
    name: str = ""

    @property
    def text(self) -> str:
        """The name as it was sent."""
        return self.model or self.name


class Show(Named):
    """The body of `/api/show`."""

    verbose: bool = False
    system: str = ""
    options: dict[str, Any] | None = None


class Transfer(Named):
    """The body of `/api/pull` and `/api/push`."""

    insecure: bool = False
    stream: bool | None = None


class Copy(msgspec.Struct):
    """The body of `/api/copy`."""

    source: str = ""
    destination: str = ""


class StartMessage(msgspec.Struct):
    """A message that every conversation with a new model begins with."""

    role: str = ""
    content: str = ""


class Create(Named):
    """The body of `/api/create`."""

    stream: bool | None = None
    from_: str = msgspec.field(default="", name="from")
    files: dict[str, str] = {}
    adapters: dict[str, str] = {}
    template: str = ""
    license: str | list[str] = ""
    system: str = ""
    parameters: dict[str, Any] = {}
    messages: list[StartMessage] = []
    quantize: str = ""
    quantization: str = ""
    imatrix: dict[str, str] = {}
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    remote_host: str = ""
    draft_files: dict[str, str] = {}
    draft_quantize: str = ""
    path: str = ""
    modelfile: str = ""


class Version(TypedDict):
    """The answer of `/api/version`."""

    version: str


class Cloud(TypedDict):
    """What `/api/status` says of the cloud."""

    disabled: bool
    source: str


class Status(TypedDict):
    """The answer of `/api/status`."""

    cloud: Cloud


class Details(TypedDict):
    """What a list tells of a model's make."""

    parent_model: str
    format: str
    family: str
    families: list[str] | None
    parameter_size: str
    quantization_level: str
    context_length: NotRequired[int]
    embedding_length: NotRequired[int]


class ShownMessage(TypedDict):
    """A message that every conversation with the model begins with."""

    role: str
    content: NotRequired[str]


class ShownTensor(TypedDict):
    """A tensor of the model's file; the fastest axis of its shape comes first."""

    name: str
    type: str
    shape: list[int]


class Shown(TypedDict):
    """The answer of `/api/show`; what is empty is left out."""

    details: Details
    model_info: dict[str, Any]
    license: NotRequired[str]
    modelfile: NotRequired[str]
    parameters: NotRequired[str]
    template: NotRequired[str]
    template_family: NotRequired[str]
    renderer: NotRequired[str]
    system: NotRequired[str]
    messages: NotRequired[list[ShownMessage]]
    projector_info: NotRequired[dict[str, Any]]
    tensors: NotRequired[list[ShownTensor]]
    capabilities: NotRequired[list[str]]
    modified_at: NotRequired[str]
    requires: NotRequired[str]


class Tag(TypedDict):
    """A model as the list has it."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details
    capabilities: list[str]


class Tags(TypedDict):
    """The answer of `/api/tags`."""

    models: list[Tag]


def routes(state: AppState) -> list[Route]:
    """The routes of this module."""
    found = _Models(state)
    return [
        route("/", found.root, "GET", opens="", answer=str),
        route("/api/version", found.version, "GET", opens="", answer=Version),
        route("/api/status", found.status, "GET", opens="", answer=Status),
        route("/api/tags", found.tags, "GET", opens=INFERENCE, answer=Tags),
        route("/api/show", found.show, "POST", opens=INFERENCE, body=Show, answer=Shown),
        route(
            "/api/create",
            found.create,
            "POST",
            opens=MANAGE,
            body=Create,
            answer=ProgressDocument,
            lines=ProgressDocument,
        ),
        route("/api/copy", found.copy, "POST", opens=MANAGE, body=Copy),
        route("/api/delete", found.delete, "DELETE", opens=MANAGE, body=Named),
        route(
            "/api/pull",
            found.pull,
            "POST",
            opens=MANAGE,
            body=Transfer,
            answer=ProgressDocument,
            lines=ProgressDocument,
        ),
        route(
            "/api/push",
            found.push,
            "POST",
            opens=MANAGE,
            body=Transfer,
            answer=ProgressDocument,
            lines=ProgressDocument,
        ),
        route("/api/blobs/{digest:path}", found.has_blob, "HEAD", opens=MANAGE),
        route("/api/blobs/{digest:path}", found.take_blob, "POST", opens=MANAGE, body=bytes, made=True),
    ]


class _Models:
    """The endpoints, bound to the server's parts."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._catalogue: Catalogue | None = None

    async def root(self, request: Request) -> Response:
        """What clients look at to see whether the server is there."""
        return PlainTextResponse("Ollama is running")

    async def version(self, request: Request) -> Response:
        """The version of Ollama that this server equals."""
        return json_response(Version(version=self._state.version))

    async def status(self, request: Request) -> Response:
        """That there is no cloud behind this server."""
        return json_response(Status(cloud={"disabled": True, "source": "config"}))

    async def tags(self, request: Request) -> Response:
        """The models of the store."""
        return json_response(Tags(models=await asyncio.to_thread(self._listed)))

    async def show(self, request: Request) -> Response:
        """Everything about one model."""
        body = await read_json(request, Show, self._state.limits)
        note(request, model=body.text)
        shown = await asyncio.to_thread(self._shown, body)
        if request.headers.get("user-agent", "").startswith("GitHubCopilotChat/"):
            # It takes the model's name from here.
            shown["model_info"]["general.basename"] = body.text
        return json_response(shown)

    async def create(self, request: Request) -> Response:
        """Make a model of blobs and other models."""
        body = await read_json(request, Create, self._state.limits)
        note(request, model=body.text)
        return await self._operation(request, self._creation(_create_request(body)), body.stream)

    async def pull(self, request: Request) -> Response:
        """Fetch a model."""
        from puna.services import transfers

        body = await read_json(request, Transfer, self._state.limits)
        note(request, model=body.text)
        name = model_name(body.text, missing="invalid model name")
        library, scheme, insecure = self._state.library, scheme_of(body.text), body.insecure
        return await self._operation(
            request,
            lambda report, cancellation: transfers.pull(
                name, library, report, cancellation, scheme=scheme, insecure=insecure
            ),
            body.stream,
        )

    async def push(self, request: Request) -> Response:
        """Send a model to a registry."""
        from puna.services import transfers

        body = await read_json(request, Transfer, self._state.limits)
        note(request, model=body.text)
        name = model_name(body.text)
        library, scheme, insecure = self._state.library, scheme_of(body.text), body.insecure
        return await self._operation(
            request,
            lambda report, cancellation: transfers.push(
                name, library, report, cancellation, scheme=scheme, insecure=insecure
            ),
            body.stream,
        )

    async def copy(self, request: Request) -> Response:
        """Give a model a second name."""
        body = await read_json(request, Copy, self._state.limits)
        note(request, model=body.source)
        source, target = (
            model_name(text, missing=invalid, invalid=invalid)
            for text, invalid in (
                (body.source, f"source {quoted(body.source)} is invalid"),
                (body.destination, f"destination {quoted(body.destination)} is invalid"),
            )
        )
        try:
            await asyncio.to_thread(self._state.library.copy, source, target)
        except ModelNotFound as error:
            raise Refused(404, f"model {quoted(body.source)} not found") from error
        return Response()

    async def delete(self, request: Request) -> Response:
        """Forget a model, and take it out of memory when its requests have ended.

        Nobody could ask for that later: it has no name any more. What another name shares stays.
        """
        body = await read_json(request, Named, self._state.limits)
        note(request, model=body.text)
        name = model_name(body.text, invalid=f"name {quoted(body.text)} is invalid")
        try:
            await asyncio.to_thread(self._state.library.delete, name)
        except ModelNotFound as error:
            # By the name that was asked for; only `show` tells the tag too.
            raise Refused(404, f"model '{body.text[:100]}' not found") from error
        loaded = self._state.scheduler.loaded()
        for digest in await asyncio.to_thread(without_a_name, self._state.library, loaded):
            await self._state.scheduler.unload(digest)
        return Response()

    async def has_blob(self, request: Request) -> Response:
        """Whether there is a blob."""
        digest = _digest(request)
        if not await asyncio.to_thread(self._state.library.blobs.verified, digest):
            raise Refused(404, f'blob "{digest}" not found')
        return Response()

    async def take_blob(self, request: Request) -> Response:
        """Take a blob in."""
        digest = _digest(request)
        if await asyncio.to_thread(self._state.library.blobs.verified, digest):
            return Response()
        await self._take_in(request, digest)
        return Response(status_code=HTTPStatus.CREATED)

    async def _take_in(self, request: Request, digest: Digest) -> None:
        from puna.services.uploads import store_blob

        length = request.headers.get("content-length", "0")
        if len(length) > _LONGEST_LENGTH:
            raise Refused(413, "the blob is too large")
        chunks = _chunks(request, self._state.limits.seconds)
        try:
            async with aclosing(chunks):
                await store_blob(self._state.library, digest, chunks, int(length))
        except DigestMismatch as error:
            raise Refused(400, str(error)) from error

    async def _operation(self, request: Request, work: Work, stream: bool | None) -> Response:
        """The answer to a request for something long: what it tells, or only its last word."""
        events = _documents(self._state, work)
        if stream is False:
            return json_response(await last_item(request, events), content_type="application/json")
        return stream_ndjson(events, self._state.explain)

    def _creation(self, wanted: "CreateRequest") -> Work:
        from puna.services.creation import create

        library = self._state.library
        return lambda report, cancellation: create(wanted, library, report, cancellation=cancellation)

    def _listed(self) -> list[Tag]:
        from puna.services.models import Catalogue

        if self._catalogue is None:
            self._catalogue = Catalogue(self._state.library)
        return [_tag(model, known) for model, known in self._catalogue.models(_tell_damaged)]

    def _shown(self, body: Show) -> dict[str, Any]:
        from puna.create.request import checked_parameters
        from puna.services.description import describe_as_document, describe_model

        name = local_name(body.text, cloud="remote model details are unavailable")
        description = describe_model(self._state.library, name)
        model = description.model
        options = checked_parameters(body.options or {})
        changed = replace(
            model, system=body.system or model.system, parameters={**model.parameters, **options}
        )
        return describe_as_document(replace(description, model=changed), verbose=body.verbose)


def _digest(request: Request) -> Digest:
    """The digest in the path. Raises: Refused."""
    try:
        return Digest.parse(request.path_params["digest"])
    except StoreError as error:
        raise Refused(400, "invalid digest format") from error


def _create_request(body: Create) -> "CreateRequest":
    """What is to be made. Raises: Refused, InvalidOption."""
    from puna.create.request import CreateRequest, named_files
    from puna.store.model import Message

    if body.path or body.modelfile:
        raise Refused(400, "'path' and 'modelfile' are not supported: send 'from', 'files' and the rest")
    if body.draft_files or body.draft_quantize:
        raise Refused(400, "draft models are not supported")
    if body.remote_host:
        raise Refused(400, "remote models are not supported")
    files, adapters = named_files(body.files), named_files(body.adapters)
    name = model_name(body.text, missing="invalid model name")
    licenses = [body.license] if isinstance(body.license, str) else body.license
    # As for Ollama, an empty text is the same as none.
    return CreateRequest(
        name=name,
        from_=model_name(body.from_) if body.from_ else None,
        files=files,
        adapters=adapters,
        template=body.template or None,
        system=body.system or None,
        licenses=tuple(text for text in licenses if text),
        parameters=body.parameters,
        messages=tuple(Message(each.role, each.content) for each in body.messages) or None,
        quantize=body.quantize or body.quantization,
        imatrix=named_files(body.imatrix),
        renderer=body.renderer or None,
        parser=body.parser or None,
        requires=body.requires or None,
    )


async def _documents(state: AppState, work: Work) -> AsyncGenerator[Item, None]:
    async with aclosing(state.operations.run(work)) as steps:
        async for step in steps:
            yield document(step)


async def _chunks(request: Request, seconds: float) -> AsyncGenerator[bytes, None]:
    """The body as it comes. Raises: Refused when nothing comes for so long, ClientGone."""
    chunks: AsyncIterator[bytes] = request.stream().__aiter__()
    while True:
        try:
            async with asyncio.timeout(seconds):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise Refused(408, "the blob did not come in time", {"Connection": "close"}) from error
        except ClientDisconnect as error:
            raise ClientGone from error
        yield chunk


def _tag(model: "ListedModel", known: "Facts") -> Tag:
    """A model as the list has it."""
    return {
        "name": str(model.name),
        "model": str(model.name),
        "modified_at": datetime.fromtimestamp(model.modified).astimezone().isoformat(),
        "size": model.size,
        "digest": model.digest,
        "details": _details(known),
        "capabilities": [str(capability) for capability in known.capabilities],
    }


def _details(known: "Facts") -> Details:
    config = known.config
    details: Details = {
        "parent_model": known.parent,
        "format": config.model_format,
        "family": config.model_family,
        "families": config.model_families,
        "parameter_size": config.model_type,
        "quantization_level": config.file_type,
    }
    if known.context_length:
        details["context_length"] = known.context_length
    if known.embedding_length:
        details["embedding_length"] = known.embedding_length
    return details


def _tell_damaged(name: str, reason: str) -> None:
    logger.warning("a model is damaged", extra=facts(model=name, error=reason))
