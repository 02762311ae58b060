"""POST /v1/rerank, in the words of Jina's and Cohere's APIs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from puna.options import INFERENCE
from puna.server import fields
from puna.server.errors import Refused
from puna.server.http import ignored_header, json_response, while_connected
from puna.server.openai.body import ModelBody, asked_of, check_ignored, read_request
from puna.server.openai.usage import new_id
from puna.server.routing import route
from puna.server.state import AppState
from puna.services.asked import Asked


class RerankBody(ModelBody, kw_only=True):
    """The body."""

    query: str = ""
    documents: fields.Documents = msgspec.field(default_factory=list)
    top_n: int | None = None
    return_documents: bool = False


class RankedText(TypedDict):
    """A document, where the documents are to be told."""

    text: str


class RankedDocument(TypedDict):
    """How well a document answers the query."""

    index: int
    relevance_score: float
    document: NotRequired[RankedText]


class RerankUsage(TypedDict):
    """The tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class RerankDocument(TypedDict):
    """The answer: the best documents, best first."""

    id: str
    model: str
    object: str
    results: list[RankedDocument]
    usage: RerankUsage


def routes(state: AppState) -> list[Route]:
    """The route."""
    return [
        route(
            "/v1/rerank",
            _Rerank(state).rerank,
            "POST",
            opens=INFERENCE,
            body=RerankBody,
            answer=RerankDocument,
        )
    ]


@dataclass(frozen=True, slots=True)
class _Rerank:
    state: AppState

    async def rerank(self, request: Request) -> Response:
        """POST /v1/rerank."""
        body, ignored = await read_request(request, RerankBody, self.state.limits)
        asked, documents = Asked(**asked_of(request, body)), _texts(body.documents)
        if body.top_n is not None and body.top_n < 1:
            raise Refused(400, f"top_n must be at least 1, not {body.top_n}", param="top_n")
        made = await while_connected(request.receive, self.state.inference.rank(asked, body.query, documents))
        ignored += [f"options.{name}" for name in made.ignored]
        check_ignored(request, ignored)
        scores = [vector[0] for vector in made.vectors]
        best = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
        results: list[RankedDocument] = [{"index": index, "relevance_score": scores[index]} for index in best]
        if body.return_documents:
            for result in results:
                result["document"] = {"text": documents[result["index"]]}
        reply: RerankDocument = {
            "id": new_id("rerank-"),
            "model": body.model,
            "object": "list",
            "results": results,
            "usage": {"prompt_tokens": made.tokens, "total_tokens": made.tokens},
        }
        return json_response(reply, headers=ignored_header(ignored))


def _texts(documents: Sequence[object]) -> list[str]:
    """The documents: texts, or objects with a `text`. Raises: Refused."""
    texts = [one.get("text") if isinstance(one, dict) else one for one in documents]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise Refused(400, 'documents must be texts, or objects with a "text"', param="documents")
    return [text for text in texts if isinstance(text, str)]
