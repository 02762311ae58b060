"""POST /v1/embeddings."""

import asyncio
import base64
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from reprlib import repr as brief
from typing import NotRequired, TypedDict

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from puna.options import INFERENCE
from puna.server import fields
from puna.server.errors import Refused
from puna.server.http import JSON, ignored_header, while_connected
from puna.server.openai.body import ModelBody, asked_of, check_ignored, read_request
from puna.server.routing import route
from puna.server.state import AppState
from puna.services.asked import EmbedRequest
from puna.services.embedding import Embeddings


class EmbeddingsBody(ModelBody, kw_only=True):
    """The body; `truncate` is an extension."""

    input: fields.TextsOrTokens = None
    dimensions: int | None = None
    encoding_format: str = "float"
    truncate: bool = False


class EmbeddingDocument(TypedDict):
    """The vector of a text: numbers, or F32 in base64."""

    object: str
    embedding: str | list[float]
    index: int


class EmbeddingsUsage(TypedDict):
    """The tokens of all texts."""

    prompt_tokens: int
    total_tokens: int
    dropped_tokens: NotRequired[int]


class EmbeddingsDocument(TypedDict):
    """The vectors of texts."""

    object: str
    data: list[EmbeddingDocument]
    model: str
    usage: EmbeddingsUsage


def routes(state: AppState) -> list[Route]:
    """The route."""
    return [
        route(
            "/v1/embeddings",
            _Embeddings(state).embed,
            "POST",
            opens=INFERENCE,
            body=EmbeddingsBody,
            answer=EmbeddingsDocument,
        )
    ]


@dataclass(frozen=True, slots=True)
class _Embeddings:
    state: AppState

    async def embed(self, request: Request) -> Response:
        """POST /v1/embeddings."""
        body, ignored = await read_request(request, EmbeddingsBody, self.state.limits)
        asked = EmbedRequest(
            **asked_of(request, body),
            inputs=inputs_of(body.input),
            truncate=body.truncate,
            dimensions=_dimensions(body.dimensions),
        )
        encoded = _is_encoded(body.encoding_format)
        made = await while_connected(request.receive, self.state.inference.embed(asked))
        ignored += [f"options.{name}" for name in made.ignored]
        check_ignored(request, ignored)
        # A thousand vectors take the encoder tens of milliseconds.
        content = await asyncio.to_thread(_written, body.model, made, encoded)
        return Response(content, 200, ignored_header(ignored), JSON)


def inputs_of(value: object) -> list[str | list[int]]:
    """The texts, or lists of tokens, to embed; what the tokens are is checked later. Raises: Refused."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise Refused(400, "invalid input: a text, tokens, or a list of these is wanted", param="input")
    if all(isinstance(one, str) for one in value) or all(isinstance(one, list) for one in value):
        return value
    if any(isinstance(one, str | list) for one in value):
        raise Refused(400, "invalid input: texts and tokens cannot be mixed", param="input")
    return [value]


def _dimensions(value: int | None) -> int:
    if value is not None and value < 1:
        raise Refused(400, f"dimensions must be at least 1, not {value}", param="dimensions")
    return value or 0


def _is_encoded(encoding: str) -> bool:
    if encoding.lower() not in ("float", "base64"):
        raise Refused(
            400,
            f"Invalid value for 'encoding_format' = {brief(encoding)}. "
            "Supported values: ['float', 'base64'].",
            param="encoding_format",
        )
    return encoding.lower() == "base64"


def _written(model: str, made: Embeddings, encoded: bool) -> bytes:
    data: list[EmbeddingDocument] = [
        {"object": "embedding", "embedding": in_base64(vector) if encoded else vector, "index": index}
        for index, vector in enumerate(made.vectors)
    ]
    usage: EmbeddingsUsage = {"prompt_tokens": made.tokens, "total_tokens": made.tokens}
    if made.dropped_tokens:
        usage["dropped_tokens"] = made.dropped_tokens
    document: EmbeddingsDocument = {"object": "list", "data": data, "model": model, "usage": usage}
    return msgspec.json.encode(document)


def in_base64(vector: Sequence[float]) -> str:
    """The numbers as F32, little-endian, in base64."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode("ascii")
