"""The one table from errors to HTTP, and what of an error's text a stranger may read.

A dialect puts the status and text that are found here into its own envelope.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from puna import errors
from puna.errors import InvalidOption, MissingCapability, Overloaded, PunaError

INTERNAL = "internal error"
CLIENT_GONE = 499
"""The status in logs, as nginx has it, of a request whose client did not wait for the answer."""

STATUSES: Mapping[type[PunaError], int] = {
    errors.PunaError: 500,
    errors.InvalidOption: 400,
    errors.FormatError: 400,
    errors.ModelError: 500,
    errors.UnsupportedModel: 400,
    errors.MissingCapability: 400,
    errors.ContextLengthExceeded: 400,
    errors.OutOfMemory: 500,
    errors.BackendError: 500,
    errors.InternalError: 500,
    errors.ServerUnreachable: 502,
    errors.ServerError: 502,
    errors.Interrupted: CLIENT_GONE,
    errors.RunnerDied: 500,
    errors.Overloaded: 503,
    errors.StoreError: 500,
    errors.OutOfSpace: 507,
    errors.DigestMismatch: 502,
    errors.FetchError: 502,
    errors.ModelNotFound: 404,
    errors.ResponseNotFound: 404,
    errors.Unauthorized: 401,
    errors.AddressRefused: 403,
}
"""Of the classes in an error's ancestry the nearest counts."""
_PATH = re.compile(r"(?<![\w.:/@<-])(?:[A-Za-z]:)?[/\\][^\s'\"`,;:]*[/\\]([^\s'\"`,;:/\\]+)", re.ASCII)
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}", re.ASCII)
_LONGEST = 2000


class Refused(PunaError):
    """A request that the server itself refuses.

    Attributes:
        status: of the HTTP answer.
        headers: that the answer is to have.
        param: the field of the request that is wrong; empty where it is none, or none in particular.
    """

    def __init__(
        self, status: int, message: str, headers: Mapping[str, str] | None = None, *, param: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.param = param


class ClientGone(Refused):
    """The client has closed the connection; nobody reads the answer."""

    def __init__(self) -> None:
        super().__init__(CLIENT_GONE, "request canceled")


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """What to answer instead of what was asked for.

    Attributes:
        status: of the HTTP answer, while it can still be chosen.
        text: for the client.
        kind: the name of the error's class, for metrics.
        param: the field of the request that is wrong, for dialects that tell it; empty where unknown.
        request_id: the request's, for dialects that tell it; empty where unknown.
    """

    status: int
    text: str
    kind: str
    headers: Mapping[str, str] = field(default_factory=dict)
    param: str = ""
    request_id: str = ""


STOPPING = ErrorAnswer(503, "the server is shutting down", "ShuttingDown", {"Retry-After": "10"})
"""What is answered to a request that the end of the server ends."""


def error_answer(error: PunaError, hidden: Sequence[str] = ()) -> ErrorAnswer:
    """The answer to a request that failed so.

    Args:
        hidden: folders of this machine that no text may name.
    """
    kind = type(error).__name__
    if isinstance(error, Refused):
        return ErrorAnswer(error.status, str(error), kind, error.headers, error.param)
    text = error.detail if isinstance(error, MissingCapability) else str(error)
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Overloaded) else {}
    status = next(STATUSES[cls] for cls in type(error).__mro__ if cls in STATUSES)
    return ErrorAnswer(
        status, public_text(text, hidden, paths=not isinstance(error, InvalidOption)), kind, headers
    )


def internal_error(request_id: str) -> ErrorAnswer:
    """The answer where the program is at fault; the log has the rest under the request's id."""
    return ErrorAnswer(500, f"{INTERNAL}, request {request_id}" if request_id else INTERNAL, "internal")


def public_text(text: str, hidden: Sequence[str] = (), *, paths: bool = True) -> str:
    """The text without folders and memory addresses of this machine, of bounded length.

    Args:
        hidden: folders that are taken away wherever they stand, the longest first.
        paths: whether other absolute paths are cut to their last part.
    """
    for folder in sorted(hidden, key=len, reverse=True):
        if len(folder) > 1:
            text = text.replace(f"{folder}/", "").replace(folder, "the server's folder")
    if paths:
        text = _PATH.sub(r"\1", text)
    return _ADDRESS.sub("0x…", text)[:_LONGEST]
