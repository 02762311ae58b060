"""Streams of lines, byte by byte, and what ends them. The events are the tests' own; all else is real."""

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from tests.server.conftest import TIMEOUT, Running, Serve, read_all

from puna.errors import ContextLengthExceeded, Overloaded, PunaError, RunnerDied, StoreError
from puna.server.app import build_app
from puna.server.http import Item, json_response, last_item, stream_ndjson, while_connected
from puna.server.routing import route
from puna.server.state import AppState

Events = Callable[[], AsyncGenerator[Item, None]]


class Piece(msgspec.Struct):
    text: str


def streaming(events: Events) -> Callable[[AppState], Starlette]:
    """The application with `/stream`, `/last` and `/wait` about these events."""

    def build(state: AppState) -> Starlette:
        async def stream(request: Request) -> Response:
            return stream_ndjson(events(), state.explain)

        async def last(request: Request) -> Response:
            return json_response(await last_item(request, events()))

        async def wait(request: Request) -> Response:
            async def work() -> list[Item]:
                return [item async for item in events()]

            return json_response(await while_connected(request.receive, work()))

        app = build_app(state)
        for path, endpoint in (("/stream", stream), ("/last", last), ("/wait", wait)):
            app.router.routes.append(route(path, endpoint, "POST", opens=""))
        return app

    return build


def chunks_of(answer: bytes) -> list[bytes]:
    """The chunks of a chunked answer (RFC 9112, 7.1)."""
    body = answer.partition(b"\r\n\r\n")[2]
    found = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        found.append(rest[:length])
        assert rest[length : length + 2] == b"\r\n"
        body = rest[length + 2 :]
    return found


def test_each_item_is_a_chunk_and_a_line(server: Serve) -> None:
    async def events() -> AsyncGenerator[Item, None]:
        yield {"n": 1, "text": "ü\n<&>"}
        yield Piece("x")
        yield b'{"raw":true}'

    running = server(app=streaming(events))
    answer = running.raw(b"POST /stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 200 ok\r\n")
    assert b"content-type: application/x-ndjson\r\n" in head + b"\r\n"
    assert b"transfer-encoding: chunked" in head and b"content-length" not in head
    assert chunks_of(answer) == [
        '{"n":1,"text":"ü\\n<&>"}\n'.encode(),
        b'{"text":"x"}\n',
        b'{"raw":true}\n',
        b"",
    ]


def test_a_stream_of_nothing(server: Serve) -> None:
    async def events() -> AsyncGenerator[Item, None]:
        items: list[Item] = []
        for item in items:
            yield item

    running = server(app=streaming(events))
    reply = running.post("/stream", b"")
    assert (reply.status, reply.body) == (200, b"")
    assert running.post("/last", b"").json == {}


TOO_LONG = "the prompt has 5 tokens, but the context holds 4; raise num_ctx or shorten it"


def failing(error: Exception, after: int) -> Events:
    async def events() -> AsyncGenerator[Item, None]:
        for number in range(after):
            yield {"n": number}
        raise error

    return events


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ContextLengthExceeded(5, 4), 400, TOO_LONG),
        (Overloaded("busy", 7), 503, "busy"),
        (RunnerDied("the runner has ended"), 500, "the runner has ended"),
    ],
)
def test_an_error_before_the_first_item_is_the_status(
    server: Serve, error: PunaError, status: int, text: str
) -> None:
    running = server(app=streaming(failing(error, 0)))
    for path in ("/stream", "/last", "/wait"):
        reply = running.post(path, b"")
        assert (reply.status, reply.error) == (status, text)
        assert reply.headers["content-type"] == "application/json; charset=utf-8"
        assert reply.headers.get("retry-after") == ("7" if status == 503 else None)


def test_a_later_error_is_the_last_line(server: Serve) -> None:
    running = server(app=streaming(failing(RunnerDied("it died"), 2)))
    reply = running.post("/stream", b"")
    assert (reply.status, reply.lines) == (200, [{"n": 0}, {"n": 1}, {"error": "it died"}])
    assert running.post("/last", b"").status == 500


def test_a_fault_of_the_program_tells_nothing(server: Serve) -> None:
    secret = RuntimeError("/home/me/.ollama: 0x7f0123456789")
    running = server(app=streaming(failing(secret, 0)))
    reply = running.post("/stream", b"", {"X-Request-Id": "abc"})
    assert (reply.status, reply.error) == (500, "internal error, request abc")
    assert "/home/me" in running.log.getvalue()
    running = server(app=streaming(failing(secret, 1)))
    reply = running.post("/stream", b"")
    assert reply.lines == [{"n": 0}, {"error": "internal error"}]
    log = running.log.getvalue()
    assert "Traceback" in log and all(line.startswith("time=") for line in log.splitlines())


def test_paths_in_errors_are_cut(server: Serve) -> None:
    error = StoreError("/var/lib/x y/blobs/sha256-1: Permission denied at 0x7ffffffff")
    reply = server(app=streaming(failing(error, 0))).post("/stream", b"")
    assert "/var" not in reply.error and "0x7f" not in reply.error


class Endless:
    """Events without end, that know how many were asked for, and when nobody asks any more."""

    def __init__(self, item: Item, pause: float = 0.0, wait_after: int | None = None) -> None:
        self.item = item
        self.pause = pause
        self.wait_after = wait_after
        self.sent = 0
        self.closed = threading.Event()
        self.inner_closed = threading.Event()

    async def inner(self) -> AsyncGenerator[Item, None]:
        try:
            while True:
                if self.wait_after is not None and self.sent >= self.wait_after:
                    await asyncio.Event().wait()
                await asyncio.sleep(self.pause)
                self.sent += 1
                yield self.item
        finally:
            self.inner_closed.set()

    async def __call__(self) -> AsyncGenerator[Item, None]:
        try:
            async with aclosing(self.inner()) as events:
                async for item in events:
                    yield item
        finally:
            self.closed.set()


def events_of(endless: Endless) -> Events:
    return lambda: endless()


def begin(running: Running, path: str) -> socket.socket:
    connection = socket.create_connection((running.host, running.port), timeout=TIMEOUT)
    connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
    return connection


@pytest.mark.parametrize("path", ["/stream", "/last", "/wait"])
@pytest.mark.parametrize("wait_after", [0, 3, None])
def test_a_client_that_goes_ends_the_events(server: Serve, path: str, wait_after: int | None) -> None:
    endless = Endless({"a": 1}, 0.001, wait_after)
    running = server(app=streaming(events_of(endless)))
    with begin(running, path) as connection:
        if path == "/stream" and wait_after != 0:
            assert connection.recv(1)
    assert endless.closed.wait(TIMEOUT) and endless.inner_closed.wait(TIMEOUT)
    assert running.get("/api/version").status == 200


def test_the_first_line_comes_before_the_second_exists(server: Serve) -> None:
    endless = Endless({"a": 1}, wait_after=1)
    running = server(app=streaming(events_of(endless)))
    with begin(running, "/stream") as connection:
        answer = b""
        while not answer.endswith(b'{"a":1}\n\r\n'):
            answer += connection.recv(65536)
    assert endless.sent == 1
    assert endless.closed.wait(TIMEOUT)


def test_a_client_that_does_not_read_stops_the_events_and_is_cut_off(server: Serve) -> None:
    """D12: nothing is gathered for it, others are served, and after a time it is gone."""
    endless = Endless({"a": "x" * 10_000})
    running = server(app=streaming(events_of(endless)), write_timeout=2.0)
    with begin(running, "/stream"):
        assert running.get("/api/version").status == 200
        assert endless.closed.wait(TIMEOUT)
        # What the system's own buffers take is some megabytes.
        assert endless.sent < 5000


def test_a_slow_client_gets_everything(server: Serve) -> None:
    async def events() -> AsyncGenerator[Item, None]:
        for number in range(2000):
            yield {"n": number, "x": "y" * 1000}

    running = server(app=streaming(events))
    connection = http.client.HTTPConnection(running.host, running.port, timeout=TIMEOUT)
    connection.request("POST", "/stream")
    response = connection.getresponse()
    numbers = [json.loads(line)["n"] for line in response]
    connection.close()
    assert numbers == [*range(2000)]


def test_a_stream_is_told_that_the_server_stops(server: Serve) -> None:
    endless = Endless({"a": 1}, wait_after=1)
    running = server(app=streaming(events_of(endless)), shutdown_grace=1.0)
    with begin(running, "/stream") as connection:
        assert connection.recv(1)
        running.server.stop()
        answer = read_all(connection)
    assert b'{"error":"the server is shutting down"}\n' in answer
    assert endless.inner_closed.wait(TIMEOUT)


def test_who_waits_is_told_that_the_server_stops(server: Serve) -> None:
    endless = Endless({"a": 1}, wait_after=0)
    running = server(app=streaming(events_of(endless)), shutdown_grace=1.0)
    with begin(running, "/last") as connection:
        until(lambda: "puna" in running.log.getvalue() or bool(running.server.server_state.tasks))
        running.server.stop()
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"the server is shutting down" in answer


def test_what_ends_in_time_is_finished(server: Serve) -> None:
    async def events() -> AsyncGenerator[Item, None]:
        for number in range(10):
            await asyncio.sleep(0.05)
            yield {"n": number}

    running = server(app=streaming(events), shutdown_grace=20.0)
    with begin(running, "/stream") as connection:
        assert connection.recv(1)
        running.server.stop()
        answer = read_all(connection)
    assert b'{"n":9}\n' in answer and b"error" not in answer


def until(reached: Callable[[], Any]) -> None:
    for _ in range(3000):
        if reached():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came to that")
