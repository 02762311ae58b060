"""Errors in OpenAI's envelope: from a status and a kind of error to a type and a code."""

from collections.abc import Mapping
from typing import TypedDict

from starlette.responses import Response

from puna.server.errors import ErrorAnswer
from puna.server.http import json_response
from puna.server.sse import sse_event

_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_CODES: Mapping[str, str] = {
    "ModelNotFound": "model_not_found",
    "ContextLengthExceeded": "context_length_exceeded",
    "NoKey": "invalid_api_key",
    "KeyBusy": "rate_limit_exceeded",
    "Overloaded": "server_overloaded",
    "ResponseNotFound": "response_not_found",
}
_PARAMS: Mapping[str, str] = {"ModelNotFound": "model", "ContextLengthExceeded": "messages"}


class ErrorObject(TypedDict):
    """What is told of an error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorDocument(TypedDict):
    """An error."""

    error: ErrorObject


def error_object(answer: ErrorAnswer) -> ErrorObject:
    """The error as OpenAI's API describes one."""
    kind = "server_error" if answer.status >= 500 else "invalid_request_error"
    return {
        "message": answer.text,
        "type": _TYPES.get(answer.status, kind),
        "param": answer.param or _PARAMS.get(answer.kind),
        "code": _CODES.get(answer.kind),
    }


def error_response(answer: ErrorAnswer) -> Response:
    """The answer to a request that failed."""
    return json_response(ErrorDocument(error=error_object(answer)), answer.status, answer.headers)


def error_event(answer: ErrorAnswer) -> bytes:
    """The end of a stream that failed."""
    return sse_event(ErrorDocument(error=error_object(answer)))
