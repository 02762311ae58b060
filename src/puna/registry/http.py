"""A small HTTP client, on `http.client`: docs/decisions/registry-http.md tells why.

It follows no redirects, trusts no length, decodes within limits, connects only to addresses that have been
checked, and repeats nothing of what a server says in its errors.
"""

import threading
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, cast

from puna import settings
from puna.errors import FetchError, Interrupted, InvalidOption
from puna.registry.agent import user_agent
from puna.registry.network import Network, check_name
from puna.registry.registries import Registry
from puna.registry.urls import Address, Origin, parse_url
from puna.registry.wire import ConnectionLost, Stalled, Wire

if TYPE_CHECKING:
    import socket
    import ssl

    from _typeshed import WriteableBuffer

__all__ = ["HttpClient", "Response", "Stalled", "Upload"]

MANIFEST_LIMIT = 4 << 20
TOKEN_LIMIT = 64 << 10
ERROR_LIMIT = 4 << 10

DEADLINE = 60.0
IDLE_TIMEOUT = 30.0

_HEADERS_LIMIT = 256 << 10
# What may come with a piece of a body: chunk sizes, their extensions, trailers.
_AROUND = 256 << 10
_PIECE = 16 << 10
_UPLOAD_PIECE = 1 << 20
_MOST_IDLE = 16
_DRAIN_LIMIT = 4 << 10
_DRAIN_SECONDS = 0.5
_REPEATABLE = {"GET", "HEAD", "PUT", "DELETE"}


class Readable(Protocol):
    """What an upload is read from: a binary file, or what acts like one."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""

    def tell(self) -> int:
        """Where it stands."""

    def seek(self, offset: int, /) -> object:
        """Go back to where it stood, for sending again."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A request's body that is too long for memory.

    Attributes:
        source: read from where it stands.
        length: bytes to send.
    """

    source: Readable
    length: int


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, as `http://[user:password@]host[:port]` names it.

    Attributes:
        authorization: the value of Proxy-Authorization; empty for none.
    """

    host: str
    port: int
    authorization: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class _Route:
    """What two requests must share to use one connection."""

    origin: Origin
    private: bool
    ca: Path | None
    proxy: Proxy | None


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    address: Address
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | Upload | None = field(repr=False)
    deadline: float
    idle_timeout: float

    @property
    def repeatable(self) -> bool:
        return self.method in _REPEATABLE and not isinstance(self.body, Upload)


class Response:
    """An answer: status and headers have come, the body is still to be read.

    Attributes:
        status: as RFC 9110 has it.
        headers: looked up in any case; `get_all` gives the values of a header that came several times.
        url: what was asked for.
        length: bytes of the body as it is sent; None where the server does not say.
    """

    def __init__(
        self, url: Address, raw: HTTPResponse, wire: Wire, done: Callable[[Wire, bool], None]
    ) -> None:
        self.status: int = raw.status
        self.headers: HTTPMessage = raw.headers
        self.url = str(url)
        self.length: int | None = None if raw.chunked else raw.length
        self._raw = raw
        self._wire = wire
        self._done = done
        self._remaining = self.length
        self._open = True
        if self._remaining == 0:
            self._finish(reusable=True)

    def read(self, limit: int) -> bytes:
        """The whole body, decoded, within the request's deadline.

        Raises:
            FetchError: it has more than `limit` bytes, is cut short, damaged, or encoded in another way than
                gzip or deflate.
            Stalled: it does not end in time.
            Interrupted: `abort` was called.
        """
        coding = self.headers.get("Content-Encoding", "identity").strip().lower()
        if coding in ("identity", ""):
            decoder = None
        elif coding in ("gzip", "x-gzip", "deflate"):
            decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
        else:
            raise self._fault(f"sends an answer encoded as {coding[:50]!r}")
        content = bytearray()
        sent = 0
        piece = bytearray(_PIECE)
        while count := self._readinto(memoryview(piece)):
            sent += count
            data = bytes(piece[:count])
            content += data if decoder is None else self._decode(decoder, data, limit + 1 - len(content))
            if len(content) > limit or sent > limit + _AROUND:
                raise self._fault(f"sends more than the {limit} bytes that its answer may have")
        if decoder is not None and not decoder.eof and sent:
            raise self._fault("sends an answer whose encoding is cut short")
        return bytes(content)

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read what has come of the body into `buffer`, at least a byte; 0 at its end.

        There is no deadline, only the time between two bytes.

        Raises:
            FetchError: the body is cut short, or encoded.
            Stalled: no byte came for the idle time.
            Interrupted: `abort` was called.
        """
        if self.headers.get("Content-Encoding", "identity").strip().lower() not in ("identity", ""):
            raise self._fault("sends content in an encoding that was not asked for")
        self._wire.deadline = None
        return self._readinto(memoryview(buffer).cast("B"))

    def abort(self) -> None:
        """End the transfer now, from any thread; a read that waits raises Interrupted."""
        self._wire.abort()

    def close(self) -> None:
        """Give the connection back, or close it if something is still to come."""
        if self._open and self._remaining is not None and self._remaining <= _DRAIN_LIMIT:
            self._wire.deadline = time.monotonic() + _DRAIN_SECONDS
            with suppress(FetchError, Interrupted):
                while self._readinto(memoryview(bytearray(_DRAIN_LIMIT))):
                    pass
        self._finish(reusable=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _readinto(self, view: memoryview) -> int:
        if not self._open or not len(view):
            return 0
        self._wire.allowance = len(view) + _AROUND
        count = self._read_chunked(view) if self._remaining is None else self._read_counted(view)
        if self._remaining == 0 or count == 0:
            self._finish(reusable=True)
        return count

    def _read_counted(self, view: memoryview) -> int:
        remaining = self._remaining or 0
        count = self._raw.fp.readinto1(view[:remaining])
        if count == 0:
            raise self._fault(f"closed the connection {remaining} bytes early", ConnectionLost)
        self._remaining = remaining - count
        return count

    def _read_chunked(self, view: memoryview) -> int:
        try:
            data = self._raw.read1(len(view))
        except HTTPException as error:
            raise self._fault("sends an answer that is cut short", ConnectionLost) from error
        view[: len(data)] = data
        return len(data)

    def _decode(self, decoder: "zlib._Decompress", data: bytes, room: int) -> bytes:
        try:
            decoded = decoder.decompress(data, room)
        except zlib.error as error:
            raise self._fault("sends an answer whose encoding is damaged") from error
        if decoder.unused_data:
            raise self._fault("sends an answer whose encoding is damaged")
        return decoded

    def _fault(self, what: str, kind: type[FetchError] = FetchError) -> FetchError:
        self._finish(reusable=False)
        return kind(f"{self._wire.peer} {what}")

    def _finish(self, *, reusable: bool) -> None:
        if self._open:
            self._open = False
            will_close = self._raw.will_close
            self._raw.close()
            self._done(self._wire, reusable and not will_close)


class HttpClient:
    """Sends requests over connections that it keeps open; several threads may use it.

    Args:
        network: the way out.
        proxy_for: gives the proxy's URL for a URL, None for a direct connection.
    """

    def __init__(self, network: Network, proxy_for: Callable[[str], str | None] = settings.proxy_for) -> None:
        self._network = network
        self._proxy_for = proxy_for
        self._lock = threading.Lock()
        self._closed = False
        self._busy: set[Wire] = set()
        self._dials: set[Future[socket.socket]] = set()
        self._idle: dict[_Route, list[Wire]] = {}

    def send(
        self,
        method: str,
        url: str,
        *,
        registry: Registry,
        headers: Mapping[str, str] | None = None,
        body: bytes | Upload | None = None,
        deadline: float = DEADLINE,
        idle_timeout: float = IDLE_TIMEOUT,
    ) -> Response:
        """Send a request and wait for the head of its answer, whatever its status. Redirects are left alone.

        Args:
            method: as RFC 9110 writes it.
            url: absolute.
            registry: whose request it is: decides about plain http, private addresses and certificates.
            headers: besides Host, User-Agent, Accept-Encoding (`identity`) and Content-Length.
            body: bytes, or a file with a length.
            deadline: seconds for connecting, sending and the head of the answer, and for `Response.read`. The
                body of the request has no deadline, only the idle time; the count begins anew behind it.
            idle_timeout: most seconds between two bytes.

        Raises:
            AddressRefused: the address may not be reached.
            Stalled: a time ran out.
            FetchError: it cannot be reached, or does not speak HTTP.
            Interrupted: `close` was called.
        """
        address = parse_url(url)
        registry.check_encryption(address.origin)
        route = self._route(address.origin, registry)
        lines = {"User-Agent": user_agent(registry), "Accept-Encoding": "identity", **(headers or {})}
        request = _Request(method, address, lines, body, deadline, idle_timeout)
        kept = self._kept(route)
        if kept is not None:
            try:
                return self._exchange(kept, route, request)
            except ConnectionLost:
                # A server may close an idle connection at any time; that says nothing about the request.
                if not request.repeatable:
                    raise
        return self._exchange(self._connected(route, request), route, request)

    def close(self) -> None:
        """End everything now, from any thread; requests that wait, and later ones, raise Interrupted."""
        with self._lock:
            self._closed = True
            idle = [wire for wires in self._idle.values() for wire in wires]
            self._idle.clear()
            for dial in self._dials:
                dial.cancel()
            for wire in self._busy:
                wire.abort()
        for wire in idle:
            wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _route(self, origin: Origin, registry: Registry) -> _Route:
        private = registry.may_be_private(origin.host)
        named = self._proxy_for(str(origin))
        proxy = parse_proxy(named) if named else None
        if proxy is not None:
            check_name(origin.host, private=private)
        return _Route(origin, private, registry.ca, proxy)

    def _kept(self, route: _Route) -> Wire | None:
        """An open connection that an earlier request has left."""
        while True:
            with self._lock:
                if self._closed:
                    raise Interrupted("the transfer was stopped")
                wires = self._idle.get(route)
                if not wires:
                    return None
                wire = wires.pop()
                self._busy.add(wire)
            if wire.is_idle():
                return wire
            self._drop(wire)

    def _connected(self, route: _Route, request: _Request) -> Wire:
        end = time.monotonic() + request.deadline
        wire = Wire(self._dialled(route, request.deadline), route.origin.host)
        wire.deadline, wire.idle = end, request.idle_timeout
        try:
            with self._lock:
                self._busy.add(wire)
                if self._closed:
                    wire.abort()
            if route.origin.scheme == "https":
                if route.proxy is not None:
                    _tunnel(wire, route.origin, route.proxy)
                wire.start_tls(_tls_context(route.ca), route.origin.host)
        except BaseException:
            self._drop(wire)
            raise
        return wire

    def _dialled(self, route: _Route, seconds: float) -> "socket.socket":
        proxy, origin = route.proxy, route.origin
        if proxy is None:
            dial = self._network.dial(origin.host, origin.port, private=route.private, timeout=seconds)
        else:
            # The proxy is the user's own choice, wherever it is; the target's name has been checked.
            dial = self._network.dial(proxy.host, proxy.port, private=True, timeout=seconds)
        with self._lock:
            self._dials.add(dial)
            if self._closed:
                dial.cancel()
        try:
            return dial.result(seconds)
        except CancelledError as error:
            raise Interrupted("the transfer was stopped") from error
        except TimeoutError as error:
            if not dial.cancel():
                return dial.result()
            raise Stalled(f"{(proxy or origin).host} did not answer in time") from error
        finally:
            with self._lock:
                self._dials.discard(dial)

    def _exchange(self, wire: Wire, route: _Route, request: _Request) -> Response:
        wire.deadline, wire.idle = time.monotonic() + request.deadline, request.idle_timeout
        try:
            raw = _answer(wire, route, request)
        except BaseException:
            self._drop(wire)
            raise
        return Response(request.address, raw, wire, lambda wire, reusable: self._back(route, wire, reusable))

    def _back(self, route: _Route, wire: Wire, reusable: bool) -> None:
        with self._lock:
            wires = self._idle.setdefault(route, [])
            keep = reusable and not self._closed and len(wires) < _MOST_IDLE
            if keep:
                self._busy.discard(wire)
                wires.append(wire)
        if not keep:
            self._drop(wire)

    def _drop(self, wire: Wire) -> None:
        with self._lock:
            self._busy.discard(wire)
        wire.close()


def parse_proxy(text: str) -> Proxy:
    """The proxy at a URL or `host:port`.

    Raises:
        InvalidOption: it is no `http` proxy. What it says of a password is not repeated.
    """
    from base64 import b64encode
    from urllib.parse import unquote, urlsplit

    if "://" not in text:
        text = f"http://{text}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port or 80
    except ValueError as error:
        raise InvalidOption("the proxy that the environment names has an invalid address") from error
    if parts.scheme != "http" or not host:
        raise InvalidOption(
            f"the proxy that the environment names is of the kind {parts.scheme[:20]!r};"
            " only http://host:port is supported"
        )
    if parts.username is None:
        return Proxy(host, port)
    secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(host, port, "Basic " + b64encode(secret.encode()).decode())


def _tls_context(ca: Path | None) -> "ssl.SSLContext":
    """Trust in the system's authorities, and those of the file `ca`.

    A context of its own for every connection: truststore holds a lock on it during the handshake, so that one
    server that stalls would stop all others.
    """
    import ssl

    import truststore

    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        try:
            context.load_verify_locations(str(ca))
        except OSError as error:  # ssl.SSLError is one
            reason = error.strerror if isinstance(error, FileNotFoundError) else "it holds no certificates"
            raise InvalidOption(f"ca file {ca}: {reason}") from error
    return context


def _tunnel(wire: Wire, origin: Origin, proxy: Proxy) -> None:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    target = f"{host}:{origin.port}"
    headers = {"Host": target}
    if proxy.authorization:
        headers["Proxy-Authorization"] = proxy.authorization
    wire.sendall(_head("CONNECT", target, headers))
    raw = _begin(wire, "CONNECT")
    if not 200 <= raw.status < 300:
        raise FetchError(f"the proxy {proxy.host} does not connect to {origin.host}: status {raw.status}")


def _answer(wire: Wire, route: _Route, request: _Request) -> HTTPResponse:
    """Send the request and read the head of its answer."""
    target, headers = request.address.target, dict(request.headers)
    if route.proxy is not None and route.origin.scheme == "http":
        target = str(request.address)
        if route.proxy.authorization:
            headers["Proxy-Authorization"] = route.proxy.authorization
    headers = {"Host": route.origin.authority, **headers}
    length = _length(request)
    if length is not None:
        headers["Content-Length"] = str(length)
    broken: ConnectionLost | None = None
    try:
        wire.sendall(_head(request.method, target, headers))
        if request.body is not None:
            _send_body(wire, request.body)
    except ConnectionLost as error:
        # A server may answer before it has read everything, and hang up.
        broken = error
    if request.body is not None:
        wire.deadline = time.monotonic() + request.deadline
    try:
        raw = _begin(wire, request.method)
    except ConnectionLost as error:
        raise broken or error from error
    if broken is not None:
        raw.will_close = True
    return raw


def _length(request: _Request) -> int | None:
    if request.body is None:
        return 0 if request.method in ("POST", "PUT", "PATCH") else None
    return request.body.length if isinstance(request.body, Upload) else len(request.body)


def _send_body(wire: Wire, body: bytes | Upload) -> None:
    wire.deadline = None
    if not isinstance(body, Upload):
        wire.sendall(body)
        return
    remaining = body.length
    while remaining:
        piece = body.source.read(min(_UPLOAD_PIECE, remaining))
        if not piece:
            raise FetchError(f"what is sent to {wire.peer} ended {remaining} bytes early")
        wire.sendall(piece)
        remaining -= len(piece)


def _head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    for line in lines:
        # Header values of other servers (tokens, addresses) come through here.
        if not line.isascii() or not line.isprintable():
            raise FetchError(
                f"the request header {line.partition(':')[0][:50]!r} has characters it cannot have"
            )
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def _begin(wire: Wire, method: str) -> HTTPResponse:
    """Read status line and headers."""
    wire.allowance = _HEADERS_LIMIT
    # All that HTTPResponse asks of a socket is makefile.
    raw = HTTPResponse(cast("socket.socket", wire), method=method)
    try:
        raw.begin()
    except ConnectionError as error:  # RemoteDisconnected: not a byte came
        raise ConnectionLost(f"{wire.peer} closed the connection without an answer") from error
    except HTTPException as error:
        raise FetchError(f"{wire.peer} does not answer as an HTTP server does") from error
    return raw
