"""OpenAI's API, as a presentation of the services; see docs/openai.md."""

from starlette.routing import Route

from puna.server.openai import chat, completions, embeddings, models, rerank, responses
from puna.server.openai.body import END, StrictQuery
from puna.server.openai.errors import ErrorDocument, error_response
from puna.server.state import AppState

__all__ = ["END", "PREFIX", "ErrorDocument", "StrictQuery", "error_response", "routes"]

PREFIX = "/v1/"
"""Of the paths that are told errors in this dialect."""


def routes(state: AppState) -> list[Route]:
    """All routes of the dialect."""
    return [
        *chat.routes(state),
        *completions.routes(state),
        *embeddings.routes(state),
        *models.routes(state),
        *rerank.routes(state),
        *responses.routes(state),
    ]
