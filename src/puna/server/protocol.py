"""HTTP/1.1 on a connection, with limits on what a client may send and how long it may take.

uvicorn's protocol has limits for none of these: the length of a request's head, the time it takes, the time
a client takes to read, and how many connections lie idle.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeAlias

import uvicorn
from starlette.responses import Response
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from puna.server.errors import ErrorAnswer

Refusal: TypeAlias = Callable[[Scope, ErrorAnswer], Response]
"""The answer to a request that is not taken, by its path and headers as far as they came."""

_DRAIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a client may do.

    Attributes:
        line: bytes of the request's target.
        head: bytes of the request line and headers together.
        headers: how many.
        head_seconds: for a head to come, from the connection's or the head's first byte.
        idle_seconds: between two requests.
        write_seconds: for the client to take what the connection holds back for it.
        connections: open at once.
        pipelined: requests of a connection that wait for the answer to the one before them.
    """

    line: int = 16 << 10
    head: int = 64 << 10
    headers: int = 128
    head_seconds: float = 20.0
    idle_seconds: float = 75.0
    write_seconds: float = 120.0
    connections: int = 1024
    pipelined: int = 16


class LimitedConfig(uvicorn.Config):
    """uvicorn's configuration with limits, and the connections that lie idle, the longest first."""

    def __init__(self, app: Any, limits: ConnectionLimits, refusal: Refusal, **options: Any) -> None:
        super().__init__(app, http=LimitedProtocol, timeout_keep_alive=int(limits.idle_seconds), **options)
        self.limits = limits
        self.refusal = refusal
        self.idle: OrderedDict[LimitedProtocol, None] = OrderedDict()


class LimitedProtocol(HttpToolsProtocol):
    """A connection within limits. What a client does beyond them is answered, if it can be, and ends it."""

    def __init__(
        self,
        config: LimitedConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.url = b""
        self.headers = []
        self._limits = config.limits
        self._refusal = config.refusal
        self._idle = config.idle
        self._head: int | None = None  # bytes of the head that is coming; None while none is
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._drain_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Take a place among the connections; the one that has been idle for longest may have to leave it."""
        super().connection_made(transport)
        self._begin_head_timer()
        self._idle[self] = None
        if len(self.connections) > self._limits.connections:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            if oldest is self:
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections")
            else:
                oldest.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._idle.pop(self, None)
        for timer in (self._head_timer, self._write_timer, self._drain_timer):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has come, as far as it is within the limits."""
        if self.transport.is_closing():
            return
        if self in self._idle:
            self._begin_head_timer()  # also for blank lines, which are no head yet
        super().data_received(data)
        if self._head is not None and not self.transport.is_closing():
            self._head += len(data)
            if self._head > self._limits.head:
                self._refuse_long_head()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._head = 0
        self._begin_head_timer()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head has come: check it, and start the request."""
        if self.transport.is_closing():
            return
        self._head = None
        self._stop_head_timer()
        self._idle.pop(self, None)
        length = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if len(self.url) > self._limits.line or length > self._limits.head:
            self._refuse_long_head()
        elif len(self.headers) > self._limits.headers:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too many headers")
        elif not self.url.startswith(b"/"):
            self._refuse(HTTPStatus.BAD_REQUEST, "the target of a request begins with a slash")
        elif len(self.pipeline) >= self._limits.pipelined:
            # One read can hold thousands of requests, and each that waits takes kilobytes.
            self.transport.close()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body has come."""
        if not self._refused():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request's last byte has come; another may begin."""
        if self._refused():
            return
        super().on_message_complete()
        if self._drain_timer is not None:
            self._drain_timer.cancel()
            self._drain_timer = None
            self._wait_for_next()

    def on_response_complete(self) -> None:
        """The answer has been written. What is still to come of the request's body may not take long."""
        super().on_response_complete()
        if self.transport.is_closing() or not self.cycle.response_complete:
            return
        if self.cycle.more_body:
            self._unset_keepalive_if_required()
            self._drain_timer = self.loop.call_later(_DRAIN_SECONDS, self.transport.close)
        else:
            self._idle[self] = None

    def pause_writing(self) -> None:
        """The client does not read: it has some time to."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _wait_for_next(self) -> None:
        self._idle[self] = None
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _begin_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_seconds, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        if self._head:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the head of the request did not come in time")
        else:
            self.transport.close()

    def _refused(self) -> bool:
        """Whether the message that is being parsed is of no interest any more."""
        return self.transport.is_closing() or self.cycle is None

    def _refuse_long_head(self) -> None:
        if len(self.url) > self._limits.line or not self.headers:
            self._refuse(HTTPStatus.REQUEST_URI_TOO_LONG, "the target of the request is too long")
        else:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are too large")

    def send_400_response(self, msg: str) -> None:
        """The answer to what is no HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, "this is no valid HTTP request")

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        if self.transport.is_closing():
            return
        # It must not be taken for the answer to a request that has come whole and is being worked at.
        working = self.cycle is not None and not self.cycle.response_complete
        if not working or (self.cycle.more_body and not self.cycle.response_started):
            self.transport.write(self._answer_to_head(ErrorAnswer(status, reason, "BadHead")))
        self.transport.close()

    def _answer_to_head(self, answer: ErrorAnswer) -> bytes:
        """The last answer of the connection, in the dialect of the path, if that has come."""
        path = self.url.partition(b"?")[0].decode("latin-1")
        scope = {"type": "http", "path": path, "headers": self.headers, "state": {}}
        response = self._refusal(scope, answer)
        lines = [b"HTTP/1.1 %d %s" % (answer.status, HTTPStatus(answer.status).phrase.encode("ascii"))]
        lines += [b"%s: %s" % header for header in response.raw_headers]
        return b"\r\n".join([*lines, b"connection: close", b"", bytes(response.body)])
