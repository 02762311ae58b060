"""Outermost: each request gets an id, a line in the log, figures in the metrics, and an answer whatever
goes wrong inside."""

import asyncio
import logging
import os
import re
import time
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puna.options import ApiKey
from puna.server.errors import CLIENT_GONE, STOPPING, ErrorAnswer, internal_error
from puna.server.logs import facts
from puna.server.middleware.headers import adding, values
from puna.server.state import AppState

logger = logging.getLogger("puna.server")

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_QUIET = {"/healthz", "/readyz", "/metrics"}


def note(request: Request, **values: Any) -> None:
    """Have the request's line in the log say more: its model, how many tokens. Never a text of the user's."""
    request.scope["state"].setdefault("notes", {}).update(values)


def request_id(request: Request) -> str:
    """The id under which the log tells of the request."""
    found: str = request.scope["state"].get("request_id", "")
    return found


class Requests:
    """See the module."""

    def __init__(self, app: ASGIApp, state: AppState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; what is no request goes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        began = time.monotonic()
        self._state.metrics.request_began()
        try:
            await self._app(scope, receive, exchange.send)
        except asyncio.CancelledError:
            # Only the end of the server cancels a request.
            await self._answer(STOPPING, exchange, receive)
        except Exception:  # whatever it is, the client gets an answer and the log the reason
            logger.exception("a request failed", extra=facts(request_id=exchange.id))
            self._state.metrics.error("internal")
            await self._answer(internal_error(exchange.id), exchange, receive)
        finally:
            self._tell(exchange, time.monotonic() - began)

    async def _answer(self, answer: ErrorAnswer, exchange: "_Exchange", receive: Receive) -> None:
        if not exchange.status:
            await self._state.error_response(exchange.scope, answer)(exchange.scope, receive, exchange.send)

    def _tell(self, exchange: "_Exchange", seconds: float) -> None:
        scope, status = exchange.scope, exchange.status if exchange.complete else CLIENT_GONE
        route = getattr(scope.get("route"), "path", "")
        self._state.metrics.request_ended(route, scope["method"], status, seconds)
        level = logging.WARNING if status >= 500 else logging.INFO
        state: dict[str, Any] = scope["state"]
        key: ApiKey | None = state.get("key")
        logger.log(
            logging.DEBUG if route in _QUIET else level,
            "request",
            extra=facts(
                request_id=exchange.id,
                method=scope["method"],
                path=route or scope["path"],
                status=status,
                duration=seconds,
                client=scope["client"][0] if scope.get("client") else None,
                key=key.name if key else None,
                **state.get("notes", {}),
            ),
        )


class _Exchange:
    """One request and what of its answer has been sent.

    Attributes:
        id: the client's own, if it is fit to be repeated, else a random one.
        status: 0 until it has been sent.
        complete: the whole answer has been sent.
    """

    def __init__(self, scope: Scope, send: Send) -> None:
        given = values(scope, b"x-request-id")
        fit = len(given) == 1 and _ID.fullmatch(given[0])
        self.id = given[0] if fit else os.urandom(8).hex()
        self.scope = scope
        self.status = 0
        self.complete = False
        scope.setdefault("state", {})["request_id"] = self.id
        self._send = adding(send, [(b"x-request-id", self.id.encode())])

    async def send(self, message: Message) -> None:
        """The `send` of the layers within."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = True
