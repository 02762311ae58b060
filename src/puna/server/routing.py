"""A route: what a key must open to use it, and what it reads and answers."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from puna.options import ApiKey
from puna.server.errors import Refused

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a route reads and answers, as types; `puna.server.openapi` describes the server by them.

    Attributes:
        body: of a JSON body; `bytes` for one of any kind, None where none is read.
        query: a Struct with a field for each parameter of the query.
        answer: of the JSON document; `str` for plain text, None for nothing.
        lines: of each line, where the answer is a stream of JSON lines.
        events: of the data of each event, where it is a stream of server-sent events.
        made: the status may be 201 too.
    """

    body: Any = None
    query: Any = None
    answer: Any = None
    lines: Any = None
    events: Any = None
    made: bool = False


class DescribedRoute(Route):
    """A route that tells what it is.

    Attributes:
        opens: the scope that a request's key must have; empty for any key.
        signature: what it reads and answers.
    """

    def __init__(
        self, path: str, endpoint: Endpoint, methods: tuple[str, ...], opens: str, signature: Signature
    ) -> None:
        super().__init__(path, endpoint, methods=list(methods), middleware=[Middleware(Scoped, opens)])
        self.opens = opens
        self.signature = signature


def route(
    path: str,
    endpoint: Endpoint,
    *methods: str,
    opens: str,
    kind: type[DescribedRoute] = DescribedRoute,
    body: Any = None,
    query: Any = None,
    answer: Any = None,
    lines: Any = None,
    events: Any = None,
    made: bool = False,
) -> DescribedRoute:
    """A route for these methods; HEAD goes with GET.

    Args:
        opens: the scope that a request's key must have (`puna.options.SCOPES`); empty for any key.
        body, query, answer, lines, events, made: what it reads and answers; see `Signature`.
    """
    return kind(path, endpoint, methods, opens, Signature(body, query, answer, lines, events, made))


class Scoped:
    """Refuses keys that do not have a scope. Without keys there is nothing to refuse."""

    def __init__(self, app: ASGIApp, opens: str) -> None:
        self._app = app
        self._opens = opens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. Raises: Refused."""
        key: ApiKey | None = scope["state"].get("key")
        if key is not None and self._opens and self._opens not in key.scopes:
            raise Refused(403, f"this API key does not have the scope {self._opens!r} that this needs")
        await self._app(scope, receive, send)
