"""The models of the store, as Anthropic's API lists them."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from puna.chat.capabilities import Capability
from puna.errors import InvalidOption, ModelNotFound
from puna.server.anthropic.errors import request_id_header
from puna.server.http import json_response
from puna.server.middleware.requests import request_id
from puna.store.library import Library, ListedModel
from puna.store.name import parse_name

if TYPE_CHECKING:
    from puna.services.models import Catalogue, Facts

_USUAL = 20
_MOST = 1000


class Models:
    """The routes of models: those that answer messages."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._catalogue: Catalogue | None = None

    async def page(self, request: Request) -> Response:
        """GET /v1/models."""
        query = request.query_params
        limit = _limit(query.get("limit", str(_USUAL)))
        models = await asyncio.to_thread(self._models)
        page, more = page_of(models, limit, query.get("after_id", ""), query.get("before_id", ""))
        document = {
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

    def _models(self) -> list[dict[str, Any]]:
        from puna.services.models import Catalogue

        if self._catalogue is None:
            self._catalogue = Catalogue(self._library)
        models = self._catalogue.models(_pass_over)
        return [
            _model(model, known) for model, known in models if Capability.COMPLETION in known.capabilities
        ]


def page_of(
    models: Sequence[dict[str, Any]], limit: int, after: str, before: str
) -> tuple[Sequence[dict[str, Any]], bool]:
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


def _model(model: ListedModel, known: "Facts") -> dict[str, Any]:
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


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= _MOST):
        raise InvalidOption(f"limit must be 1 to {_MOST}, not {text[:60]!r}")
    return int(text)


def _name(id: str) -> str:
    """The name as lists have it; empty for what is none."""
    try:
        return str(parse_name(id))
    except InvalidOption:
        return ""


def _pass_over(name: str, reason: str) -> None:
    """A model that cannot be read answers no messages; the native list tells of it in the log."""
