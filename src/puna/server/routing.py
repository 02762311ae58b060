"""A route, and what a key must open to use it."""

from collections.abc import Awaitable, Callable

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from puna.options import ApiKey
from puna.server.errors import Refused

Endpoint = Callable[[Request], Awaitable[Response]]


def route(path: str, endpoint: Endpoint, *methods: str, opens: str) -> Route:
    """A route for these methods; HEAD goes with GET.

    Args:
        opens: the scope that a request's key must have (`puna.options.SCOPES`); empty for any key.
    """
    return Route(path, endpoint, methods=list(methods), middleware=[Middleware(Scoped, opens)])


class Scoped:
    """Refuses keys that do not have a scope. Without keys there is nothing to refuse.

    Attributes:
        opens: that scope.
    """

    def __init__(self, app: ASGIApp, opens: str) -> None:
        self._app = app
        self.opens = opens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. Raises: Refused."""
        key: ApiKey | None = scope["state"].get("key")
        if key is not None and self.opens and self.opens not in key.scopes:
            raise Refused(403, f"this API key does not have the scope {self.opens!r} that this needs")
        await self._app(scope, receive, send)
