"""A running server, and plain ways to speak to it.

`server(library, **settings)` gives a `Running`, which serves until the test ends. Requests go through
`http.client` or a bare socket, nothing that would mend what it gets.
"""

import asyncio
import http.client
import io
import json
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.served import Reply

from puna.gguf import GGMLType, GGUFWriter
from puna.options import ServerSettings
from puna.server.app import build_app, build_state
from puna.server.logs import LOGGERS, configure
from puna.server.run import Server, bind, make_server
from puna.server.state import AppState
from puna.store.library import Library
from puna.variables import Endpoint

TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Running:
    """A server at work.

    Attributes:
        log: what it has written to its log.
    """

    port: int
    library: Library
    state: AppState
    server: Server
    log: io.StringIO
    host: str = "127.0.0.1"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT)
        try:
            yield connection
        finally:
            connection.close()

    def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send a request on a connection of its own; a body that is not bytes goes as JSON."""
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        with self.connection() as connection:
            connection.request(method, path, content, {**self.headers, **(headers or {})})
            return read_reply(connection)

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Reply:
        return self.ask("POST", path, body, headers)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        return self.ask("GET", path, None, headers)

    @contextmanager
    def socket(self) -> Iterator[socket.socket]:
        with socket.create_connection((self.host, self.port), timeout=TIMEOUT) as connection:
            yield connection

    def raw(self, data: bytes, answers: int = 1) -> bytes:
        """What comes back for bytes that are sent as they are: so many answers, or all until the end."""
        with self.socket() as connection:
            connection.sendall(data)
            return read_answers(connection, answers)


def read_reply(connection: http.client.HTTPConnection) -> Reply:
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, headers, response.read())


def read_answers(connection: socket.socket, count: int) -> bytes:
    """So many answers with a length; more, if the other side closes the connection after them."""
    found = b""
    while _whole_answers(found) < count:
        data = _received(connection)
        if not data:
            return found
        found += data
    return found + (read_all(connection) if b"connection: close" in found.lower() else b"")


def _whole_answers(data: bytes) -> int:
    count = 0
    while True:
        head, separator, data = data.partition(b"\r\n\r\n")
        match = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
        if not separator or not match or len(data) < int(match[1]):
            return count
        data = data[int(match[1]) :]
        count += 1


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes the connection."""
    found = bytearray()
    while data := _received(connection):
        found += data
    return bytes(found)


Serve = Callable[..., Running]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "models")


@pytest.fixture
def server(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts servers, on ports that the system chooses; the user's own settings are out of their sight."""
    monkeypatch.setenv("PUNA_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with ExitStack() as stack:

        def start(
            store: Library | None = None, *, host: str = "127.0.0.1", app: Any = None, **settings: Any
        ) -> Running:
            chosen = ServerSettings(listen=Endpoint(host=host, port=0), **settings)
            return stack.enter_context(running(chosen, store or library, app))

        yield start


@contextmanager
def running(settings: ServerSettings, library: Library, app: Any = None) -> Iterator[Running]:
    """A server in a thread; `app`, a function of its state, may stand in for the whole application."""
    log = io.StringIO()
    with quiet_loggers():
        configure(logging.DEBUG, settings.log_format, log)
        state = build_state(settings, library)
        listener = bind(settings)
        ready = threading.Event()
        port = listener.getsockname()[1]
        server = make_server((app or build_app)(state), settings, lambda: stop(state), ready.set)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        try:
            assert ready.wait(TIMEOUT)
            yield Running(port, library, state, server, log)
        finally:
            server.stop()
            thread.join(TIMEOUT)
            assert not thread.is_alive()


def stop(state: AppState) -> None:
    state.lifecycle.stopping = True


@contextmanager
def quiet_loggers() -> Iterator[None]:
    """What the server sets up in `logging` is gone after the block."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)


@pytest.fixture
def gguf(tmp_path: Path) -> bytes:
    """A GGUF file with a chat template and one tensor."""
    path = tmp_path / "tiny.gguf"
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", "llama")
        writer.add("llama.context_length", 2048)
        writer.add("llama.embedding_length", 32)
        writer.add("general.name", "Tiny")
        writer.add("tokenizer.ggml.tokens", ["a", "b"])
        writer.add_tensor("token_embd.weight", GGMLType.F32, (32,), bytes(128))
    return path.read_bytes()
