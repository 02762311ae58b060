"""A registry that answers whatever a test tells it to, and keeps what it was asked.

It speaks HTTP/1.1 by hand, one request a connection, so that an answer may be wrong in any way.
"""

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.registry.images import MANIFEST_TYPE, Image

_HEAD_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked.

    Attributes:
        target: path and query.
        headers: by names in lower case.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    Attributes:
        status: with a reason of the server's own.
        headers: sent as they are; a length and `Connection: close` are added.
        body: its bytes, or what makes them piece by piece.
        length: the Content-Length sent, be it true or not; None for that of `body`, empty for none.
        head: status line and headers, verbatim; sent in the place of all of the above if not empty.
        pause: seconds before each piece of the body.
        stall: the connection stays open at the end, in silence.
    """

    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    body: bytes | Callable[[], Iterable[bytes]] = b""
    length: str | None = None
    head: bytes = b""
    pause: float = 0
    stall: bool = False

    def first_bytes(self) -> bytes:
        """Status line and headers."""
        if self.head:
            return self.head
        length = self.length
        if length is None:
            length = str(len(self.body)) if isinstance(self.body, bytes) else ""
        lines = [f"HTTP/1.1 {self.status} because", *(f"{name}: {value}" for name, value in self.headers)]
        lines += [f"Content-Length: {length}"] if length else []
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")

    def pieces(self) -> Iterable[bytes]:
        """The body."""
        return [self.body] if isinstance(self.body, bytes) else self.body()


Answer: TypeAlias = "Reply | Callable[[Request], Reply]"


@dataclass(slots=True)
class RogueRegistry:
    """A running registry; by itself an honest one that holds `images` under any name.

    Attributes:
        host: an address of 127.0.0.0/8.
        port: chosen by the system.
        tls: what it serves HTTPS with, if it does.
        silent: it takes connections and never says a word.
        requests: what was asked, in the order in which it came.
    """

    host: str
    tls: ssl.SSLContext | None = None
    silent: bool = False
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    _images: list[Image] = field(default_factory=list)
    _answers: list[tuple[str, str, list[Answer]]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def address(self) -> str:
        """`host:port`, as it may stand in a model's name."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Where its HTTP API begins."""
        return f"{'https' if self.tls else 'http'}://{self.address}"

    def hold(self, image: Image) -> None:
        """Serve this image: its manifest under every name, and its blobs."""
        self._images.append(image)

    def answer(self, path: str, *answers: Answer, method: str = "GET") -> None:
        """Answer requests whose path and method match these regular expressions, one answer after the other.

        The last answer is given for ever.
        """
        with self._lock:
            self._answers.insert(0, (method, path, [*answers]))

    def asked(self, path: str = ".*", method: str = ".*") -> list[Request]:
        """The requests whose path and method match these regular expressions."""
        with self._lock:
            found = [*self.requests]
        return [x for x in found if re.fullmatch(path, x.path, re.S) and re.fullmatch(method, x.method)]

    def reply(self, request: Request) -> Reply:
        """Book the request; the answer to it."""
        with self._lock:
            self.requests.append(request)
            for method, path, answers in self._answers:
                if re.fullmatch(method, request.method) and re.fullmatch(path, request.path):
                    answer = answers.pop(0) if len(answers) > 1 else answers[0]
                    break
            else:
                answer = self.honest
        return answer if isinstance(answer, Reply) else answer(request)

    def honest(self, request: Request) -> Reply:
        """What an honest registry answers."""
        if request.path == "/v2/":
            return Reply(body=b"{}")
        kind, _, reference = request.path.rpartition("/")
        if kind.endswith("/manifests") and self._images:
            return Reply(headers=[("Content-Type", MANIFEST_TYPE)], body=self._images[-1].manifest)
        for image in self._images:
            if kind.endswith("/blobs") and reference in image.blobs:
                return _content(image.blobs[reference], request.headers.get("range", ""))
        return Reply(404, body=b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"not here"}]}')


def _content(blob: bytes, wanted: str) -> Reply:
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)
    if found is None:
        return Reply(headers=[("Accept-Ranges", "bytes")], body=blob)
    start = int(found[1])
    part = blob[start : int(found[2]) + 1 if found[2] else None]
    if not part:
        return Reply(416, headers=[("Content-Range", f"bytes */{len(blob)}")])
    return Reply(
        206, headers=[("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(blob)}")], body=part
    )


@contextmanager
def rogue(
    *images: Image, host: str = "127.0.0.2", tls: ssl.SSLContext | None = None, silent: bool = False
) -> Iterator[RogueRegistry]:
    """A registry that holds these images, on a free port of a loopback address."""
    registry = RogueRegistry(host, tls, silent)
    for image in images:
        registry.hold(image)
    server = _Server(registry)
    try:
        yield registry
    finally:
        server.close()


class _Server:
    def __init__(self, registry: RogueRegistry) -> None:
        self._registry = registry
        self._closing = threading.Event()
        self._listener = socket.create_server((registry.host, 0), backlog=64)
        registry.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def close(self) -> None:
        self._closing.set()
        # A shut listener wakes the thread that waits in accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        for connection in [*self._open]:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._connection, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _connection(self, plain: socket.socket) -> None:
        connection = plain
        self._open.add(plain)
        try:
            if self._registry.silent:
                self._wait_for_end(plain)
                return
            if self._registry.tls:
                connection = self._registry.tls.wrap_socket(plain, server_side=True)
                self._open.add(connection)
            request = _read_request(connection)
            if request is not None:
                self._send(connection, self._registry.reply(request))
        except OSError:
            pass  # the client has gone, or does not trust the certificate
        finally:
            for one in {plain, connection}:
                self._open.discard(one)
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()

    def _send(self, connection: socket.socket, reply: Reply) -> None:
        connection.sendall(reply.first_bytes())
        for piece in reply.pieces():
            if reply.pause and self._closing.wait(reply.pause):
                return
            connection.sendall(piece)
        if reply.stall:
            self._wait_for_end(connection)

    def _wait_for_end(self, connection: socket.socket) -> None:
        while connection.recv(1 << 16):
            pass


def _read_request(connection: socket.socket) -> Request | None:
    with connection.makefile("rb") as stream:
        first = stream.readline(_HEAD_LIMIT).decode("latin-1").split()
        headers: dict[str, str] = {}
        while (line := stream.readline(_HEAD_LIMIT)) not in (b"\r\n", b"\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        if len(first) != 3:
            return None
        return Request(first[0], first[1], headers, b"".join(_body(stream.read, stream.readline, headers)))


def _body(
    read: Callable[[int], bytes], line: Callable[[int], bytes], headers: Mapping[str, str]
) -> Iterator[bytes]:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        yield read(int(headers.get("content-length", 0)))
        return
    while size := int(line(100).split(b";")[0], 16):
        yield read(size)
        line(100)
    line(100)
