"""GET /v1/models and /v1/models/{id}."""

import asyncio
from dataclasses import dataclass
from typing import TypedDict

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from puna.errors import InvalidOption, ModelNotFound
from puna.options import INFERENCE
from puna.server.http import json_response
from puna.server.routing import route
from puna.server.state import AppState
from puna.store.name import ModelName, parse_name


class ModelDocument(TypedDict):
    """A model."""

    id: str
    object: str
    created: int
    owned_by: str


class ModelsDocument(TypedDict):
    """All models."""

    object: str
    data: list[ModelDocument]


def routes(state: AppState) -> list[Route]:
    """The routes."""
    does = _Models(state)
    return [
        route("/v1/models", does.all, "GET", opens=INFERENCE, answer=ModelsDocument),
        route("/v1/models/{id:path}", does.one, "GET", opens=INFERENCE, answer=ModelDocument),
    ]


@dataclass(frozen=True, slots=True)
class _Models:
    state: AppState

    async def all(self, request: Request) -> Response:
        """GET /v1/models. Models whose manifests are damaged are left out."""
        listing = await asyncio.to_thread(self.state.library.listing)
        models = [_document(str(model.name), model.name, model.modified) for model in listing.models]
        return json_response(ModelsDocument(object="list", data=models))

    async def one(self, request: Request) -> Response:
        """GET /v1/models/{id}; the id is told as it was asked for."""
        id = request.path_params["id"]
        stored = await asyncio.to_thread(self.state.library.manifests.stored, _name(id))
        return json_response(_document(id, stored.name, stored.modified))


def _name(id: str) -> ModelName:
    try:
        return parse_name(id)
    except InvalidOption as error:
        raise ModelNotFound(f"model {id[:100]!r} not found") from error


def _document(id: str, name: ModelName, modified: float) -> ModelDocument:
    return {"id": id, "object": "model", "created": int(modified), "owned_by": name.namespace}
