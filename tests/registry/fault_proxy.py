"""A proxy between a client and a registry, which does to the traffic what a test wants.

What it does is data: `Fault` values, matched in order against each request, which may be changed while it
runs. What passed is kept: every request, and the bytes of its bodies as they go through.
"""

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_PIECE = 1 << 16
_SEND_BUFFER = 1 << 16
_HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "trailer", "upgrade"}
_RANGE = re.compile(r"bytes=(\d+)-(\d*)", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)", re.ASCII)

BLOBS = r"/v2/.*/blobs/sha256:[0-9a-f]{64}"
UPLOADS = r"/v2/.*/blobs/uploads/.*"
MANIFESTS = r"/v2/.*/manifests/.*"


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to matching requests.

    Attributes:
        path: a regular expression for the whole path, without its query.
        method: a regular expression for the whole method.
        times: how often it happens; None for always.
        status: the answer given in the registry's place; 0 lets the request through.
        headers: of that answer, such as `Retry-After` or `Location`.
        rate: bytes a second that bodies pass with, each on its own; 0 for as quick as they come.
        cut_after: bytes of the reply's body after which the connection is closed.
        cut_upload_after: bytes of the request's body after which the connection is closed.
        hang_after: bytes of the reply's body after which nothing more comes.
        corrupt_at: offset in the whole blob of a byte that arrives changed.
        ignore_range: whole replies (200) to requests for a range.
        whole_uploads: the request's body goes on to the registry only when all of it has come.
    """

    path: str
    method: str = "GET"
    times: int | None = None
    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    rate: float = 0
    cut_after: int | None = None
    cut_upload_after: int | None = None
    hang_after: int | None = None
    corrupt_at: int | None = None
    ignore_range: bool = False
    whole_uploads: bool = False

    def matches(self, method: str, path: str, start: int, end: int | None) -> bool:
        """Whether it is for a request of the bytes from `start` to before `end` (None: all that follow)."""
        if not re.fullmatch(self.method, method) or not re.fullmatch(self.path, path):
            return False
        at = self.corrupt_at
        return at is None or (start <= at and (end is None or at < end))


@dataclass(slots=True)
class Exchange:
    """One request and its reply.

    Attributes:
        path: without the query.
        range: the request's Range header, empty without one.
        authorization: the request's Authorization header, empty without one.
        status: the reply's; 0 while there is none.
        received: bytes of the request's body that came from the client.
        sent: bytes of the reply's body that went to the client.
    """

    method: str
    path: str
    query: str = ""
    range: str = ""
    authorization: str = ""
    status: int = 0
    received: int = 0
    sent: int = 0


@dataclass(slots=True)
class FaultProxy:
    """A running proxy.

    Attributes:
        upstream: `host:port` of the registry.
        address: `127.0.0.1:<port>` of the proxy.
        exchanges: what passed, in the order in which it came.
    """

    upstream: str
    address: str = ""
    exchanges: list[Exchange] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    _faults: list[tuple[Fault, list[int]]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def set(self, *faults: Fault) -> None:
        """From now on, do these and no others; the first of them that matches a request happens."""
        with self._lock:
            self._faults = [(fault, [0]) for fault in faults]

    def forget(self) -> None:
        """Count from here."""
        with self._lock:
            self.exchanges = []

    def served(self, digest: str = "") -> int:
        """Bytes of that blob (of all blobs when empty) sent to clients."""
        return sum(x.sent for x in self.about(BLOBS, "GET") if digest in x.path)

    def about(self, path: str, method: str = ".*") -> list[Exchange]:
        """The exchanges whose path and method match these regular expressions."""
        with self._lock:
            found = [*self.exchanges]
        return [x for x in found if re.fullmatch(path, x.path) and re.fullmatch(method, x.method)]

    def uploaded(self) -> int:
        """Bytes of blobs that clients sent."""
        return sum(x.received for x in self.about(UPLOADS))

    def begin(self, exchange: Exchange) -> Fault:
        """Book a request; what is to happen to it (a `Fault` without effect if nothing is)."""
        start, end = _range_of(exchange.range)
        with self._lock:
            self.exchanges.append(exchange)
            for fault, used in self._faults:
                if fault.times is not None and used[0] >= fault.times:
                    continue
                if fault.matches(exchange.method, exchange.path, start, end):
                    used[0] += 1
                    return fault
        return Fault("")


def _range_of(header: str) -> tuple[int, int | None]:
    found = _RANGE.fullmatch(header)
    if found is None:
        return 0, None
    return int(found[1]), int(found[2]) + 1 if found[2] else None


@contextmanager
def proxying(upstream: str, *faults: Fault) -> Iterator[FaultProxy]:
    """A proxy before the registry at `upstream` (`host:port`), on a free loopback port."""
    proxy = FaultProxy(upstream)
    proxy.set(*faults)
    server = _Server(proxy)
    proxy.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    # Handlers of clients that have not closed their connection must not keep a test waiting.
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that was killed, or a connection cut on purpose


class _Cut(Exception):
    """The connection is to be closed as it is."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        # What waits in buffers counts as sent: keep it small.
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (_Cut, OSError, HTTPException):
            self.close_connection = True

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        exchange = Exchange(
            *(self.command, parts.path, parts.query),
            range=self.headers.get("Range", ""),
            authorization=self.headers.get("Authorization", ""),
        )
        fault = self.server.proxy.begin(exchange)
        if fault.status:
            self._refuse(exchange, fault)
            return
        upstream = HTTPConnection(self.server.proxy.upstream, timeout=60)
        try:
            self._forward(upstream, exchange, fault)
        finally:
            upstream.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _refuse(self, exchange: Exchange, fault: Fault) -> None:
        left = int(self.headers.get("Content-Length") or 0)
        while left and (piece := self.rfile.read(min(left, _PIECE))):
            left -= len(piece)
            exchange.received += len(piece)
        exchange.status = fault.status
        self.send_response(fault.status)
        for name, value in fault.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _forward(self, upstream: HTTPConnection, exchange: Exchange, fault: Fault) -> None:
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            wanted = name.lower() not in _HOP_HEADERS or name.lower() == "content-length"
            if wanted and not (fault.ignore_range and name.lower() == "range"):
                upstream.putheader(name, value)
        chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        if chunked:
            upstream.putheader("Transfer-Encoding", "chunked")
        upstream.endheaders()
        body = self._chunks() if chunked else self._sized(int(self.headers.get("Content-Length") or 0))
        body = self._received(_paced(body, fault.rate), exchange)
        for piece in [*body] if fault.whole_uploads else body:
            limit = fault.cut_upload_after
            if limit is not None and exchange.received > limit:
                upstream.send(piece[: len(piece) - (exchange.received - limit)])
                raise _Cut
            upstream.send(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            upstream.send(b"0\r\n\r\n")
        self._reply(upstream.getresponse(), exchange, fault)

    def _received(self, body: Iterator[bytes], exchange: Exchange) -> Iterator[bytes]:
        for piece in body:
            exchange.received += len(piece)
            yield piece

    def _sized(self, length: int) -> Iterator[bytes]:
        while length:
            piece = self.rfile.read1(min(length, _PIECE))
            if not piece:
                raise _Cut
            length -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(100).split(b";")[0], 16):
            yield from self._sized(size)
            self.rfile.readline(100)
        while self.rfile.readline(1000) not in (b"\r\n", b"\n", b""):
            pass

    def _reply(self, reply: HTTPResponse, exchange: Exchange, fault: Fault) -> None:
        length = reply.getheader("Content-Length")
        whole = b"" if length is not None or self.command == "HEAD" else reply.read()
        exchange.status = reply.status
        self.send_response_only(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in _HOP_HEADERS:
                self.send_header(name, value)
        self.send_header("Content-Length", length if length is not None else str(len(whole)))
        self.end_headers()
        if self.command == "HEAD":
            return
        body = iter([whole]) if whole else _read(reply)
        self._send_body(_paced(body, fault.rate), exchange, fault, _first_byte(reply))

    def _send_body(self, body: Iterator[bytes], exchange: Exchange, fault: Fault, at: int) -> None:
        stop = min((n for n in (fault.cut_after, fault.hang_after) if n is not None), default=None)
        for piece in body:
            offset = at + exchange.sent
            if fault.corrupt_at is not None and offset <= fault.corrupt_at < offset + len(piece):
                changed = bytearray(piece)
                changed[fault.corrupt_at - offset] ^= 0x20
                piece = bytes(changed)
            if stop is not None and exchange.sent + len(piece) > stop:
                piece = piece[: stop - exchange.sent]
                self._send(piece, exchange)
                self._stop(fault)
            self._send(piece, exchange)

    def _send(self, piece: bytes, exchange: Exchange) -> None:
        # Counted first: a client that has got it all may look at once.
        exchange.sent += len(piece)
        self.wfile.write(piece)

    def _stop(self, fault: Fault) -> None:
        if fault.hang_after is not None:
            # Until the client gives up: then its end of the connection reads as closed.
            self.request.settimeout(0.05)
            while not self.server.proxy.closing.is_set():
                with suppress(TimeoutError):
                    if not self.request.recv(1):
                        break
        raise _Cut

    def log_message(self, *_: object) -> None:
        pass


def _read(reply: HTTPResponse) -> Iterator[bytes]:
    while piece := reply.read1(_PIECE):
        yield piece


def _first_byte(reply: HTTPResponse) -> int:
    found = _CONTENT_RANGE.fullmatch(reply.getheader("Content-Range") or "")
    return int(found[1]) if found else 0


def _paced(body: Iterator[bytes], rate: float) -> Iterator[bytes]:
    """The body, in pieces that let no more than `rate` bytes pass in a second (0: all at once)."""
    if not rate:
        yield from body
        return
    size = max(1, int(rate / 50))
    for piece in body:
        for start in range(0, len(piece), size):
            part = piece[start : start + size]
            time.sleep(len(part) / rate)
            yield part
