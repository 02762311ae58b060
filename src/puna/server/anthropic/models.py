"""The models of the store, as Anthropic's API lists them."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypedDict

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from puna.chat.capabilities import Capability
from puna.errors import InvalidOption, ModelNotFound
from puna.server.anthropic.errors import request_id_header
from puna.server.http import json_response, read_query
from puna.server.middleware.requests import request_id
from puna.store.library import Library, ListedModel
from puna.store.name import parse_name

if TYPE_CHECKING:
    from puna.services.models import Catalogue, Facts


class PageQuery(msgspec.Struct):
    """The query of GET /v1/models."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20
    after_id: str = ""
    before_id: str = ""


class ModelDocument(TypedDict):
    """A model."""

    type: str
    id: str
    display_name: str
    created_at: str
    lifecycle: str
    max_input_tokens: int | None
    max_tokens: int | None


class PageDocument(TypedDict):
    """A page of models."""

    data: Sequence[ModelDocument]
    has_more: bool
    first_id: str | None
    last_id: str | None


class Models:
    """The routes of models: those that answer messages."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._catalogue: Catalogue | None = None

    async def page(self, request: Request) -> Response:
        """GET /v1/models."""
        query = read_query(request, PageQuery)
        models = await asyncio.to_thread(self._models)
        page, more = page_of(models, query.limit, query.after_id, query.before_id)
        document: PageDocument = {
            "data": page,
            "has_more": more,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
        }
        return json_response(document, headers=request_id_header(request_id(request)))

    async def one(self, request: Request) -> Response:
        """GET /v1/models/{id}."""
        id = request.path_params["id"]
        models = await asyncio.to_thread(self._models)
        name = _name(id)
        found = [model for model in models if name and model["id"].lower() == name.lower()]
        if not found:
            raise ModelNotFound(f"model '{id[:100]}' not found")
        return json_response(found[0], headers=request_id_header(request_id(request)))

    def _models(self) -> list[ModelDocument]:
        from puna.services.models import Catalogue

        if self._catalogue is None:
            self._catalogue = Catalogue(self._library)
        models = self._catalogue.models(_pass_over)
        return [
            _model(model, known) for model, known in models if Capability.COMPLETION in known.capabilities
        ]


def page_of(
    models: Sequence[ModelDocument], limit: int, after: str, before: str
) -> tuple[Sequence[ModelDocument], bool]:
    """A page of models, and whether there are more in that direction.

    Args:
        after, before: the id of the model that the page follows, or comes before; empty for the first page.

    Raises:
        InvalidOption: there is no such model.
    """
    ids = [model["id"] for model in models]
    for name, id in (("after_id", after), ("before_id", before)):
        if id and id not in ids:
            raise InvalidOption(f"{name}: there is no model {id[:100]!r}")
    if before:
        end = ids.index(before)
        return models[max(end - limit, 0) : end], end > limit
    begin = ids.index(after) + 1 if after else 0
    return models[begin : begin + limit], len(models) > begin + limit


def _model(model: ListedModel, known: "Facts") -> ModelDocument:
    created = datetime.fromtimestamp(model.modified, UTC).isoformat(timespec="seconds")
    return {
        "type": "model",
        "id": str(model.name),
        "display_name": str(model.name),
        "created_at": created.removesuffix("+00:00") + "Z",
        "lifecycle": "active",
        "max_input_tokens": known.context_length or None,
        "max_tokens": known.context_length or None,
    }


def _name(id: str) -> str:
    """The name as lists have it; empty for what is none."""
    try:
        return str(parse_name(id))
    except InvalidOption:
        return ""


def _pass_over(name: str, reason: str) -> None:
    """A model that cannot be read answers no messages; the native list tells of it in the log."""
