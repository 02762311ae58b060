"""A server that plays transcripts of Ollama's native API, over a real socket.

What it answers is written down below as it goes over the wire; what it was asked is kept for the tests.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route


@dataclass(frozen=True, slots=True)
class Played:
    """An answer.

    Attributes:
        pieces: the bytes of the body, in the pieces in which they are sent.
        breaks: the connection is cut after them.
        waits: nothing follows until the client leaves.
    """

    status: int
    pieces: tuple[bytes, ...]
    headers: dict[str, str] = field(default_factory=dict)
    breaks: bool = False
    waits: bool = False


def document(value: Any, status: int = 200, **headers: str) -> Played:
    """A whole reply in JSON."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Played(status, (json.dumps(value).encode(),), {"content-type": "application/json", **named})


def lines(*values: Any, **options: Any) -> Played:
    """A stream, a piece for each line."""
    pieces = tuple(json.dumps(value).encode() + b"\n" for value in values)
    return Played(200, pieces, {"content-type": "application/x-ndjson"}, **options)


@dataclass(slots=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)


@dataclass(slots=True)
class PlayedServer:
    """The server: its address, what it answers by method and path, and what it was asked."""

    url: str = ""
    answers: dict[tuple[str, str], list[Played]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)

    def play(self, method: str, path: str, *answers: Played) -> None:
        """Answer so, in turn, and with the last one for good."""
        self.answers[method, path] = list(answers)

    @property
    def last(self) -> Asked:
        return self.asked[-1]

    async def __call__(self, request: Request) -> Response:
        content = await request.body()
        self.asked.append(Asked(request.method, request.url.path, dict(request.headers), content))
        queue = self.answers.get((request.method, request.url.path))
        if not queue:
            return Response(b"404 page not found", 404)
        answer = queue.pop(0) if len(queue) > 1 else queue[0]
        return StreamingResponse(self._body(answer), answer.status, answer.headers)

    async def _body(self, answer: Played) -> AsyncIterator[bytes]:
        for piece in answer.pieces:
            yield piece
        if answer.breaks:
            raise ConnectionAbortedError
        if answer.waits:
            try:
                await asyncio.sleep(30)
            finally:
                self.left.set()


@contextmanager
def playing() -> Iterator[PlayedServer]:
    """Serves on a free port of 127.0.0.1 while inside."""
    server = PlayedServer()
    methods = ["GET", "POST", "DELETE", "HEAD"]
    app = Starlette(routes=[Route("/{path:path}", server.__call__, methods=methods)])
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    socket = config.bind_socket()
    server.url = f"http://127.0.0.1:{socket.getsockname()[1]}"
    thread = threading.Thread(target=running.run, kwargs={"sockets": [socket]})
    thread.start()
    while not running.started:
        time.sleep(0.005)
    try:
        yield server
    finally:
        running.should_exit = True
        thread.join()
        socket.close()
