"""Errors in Anthropic's envelope: from a status to a type."""

from collections.abc import Mapping
from typing import TypedDict

from starlette.responses import Response

from puna.server.errors import CLIENT_GONE, ErrorAnswer
from puna.server.http import json_response
from puna.server.sse import sse_event

# What is not here is the request's fault below 500, and the server's from there on.
_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    CLIENT_GONE: "api_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


class ErrorObject(TypedDict):
    """What is told of an error."""

    type: str
    message: str


class ErrorDocument(TypedDict):
    """An error."""

    type: str
    error: ErrorObject
    request_id: str | None


def error_document(answer: ErrorAnswer) -> ErrorDocument:
    """The error as Anthropic's API tells it."""
    kind = _TYPES.get(answer.status, "api_error" if answer.status >= 500 else "invalid_request_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": answer.text},
        "request_id": answer.request_id or None,
    }


def error_response(answer: ErrorAnswer) -> Response:
    """The answer to a request that failed."""
    return json_response(
        error_document(answer), answer.status, {**answer.headers, **request_id_header(answer.request_id)}
    )


def error_event(answer: ErrorAnswer) -> bytes:
    """The end of a stream that failed."""
    return sse_event(error_document(answer), "error")


def request_id_header(id: str) -> dict[str, str]:
    """The header from which Anthropic's clients take a request's id."""
    return {"request-id": id} if id else {}
