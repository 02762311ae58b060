"""The HTTP client, against real servers on this machine: TLS, limits, time, reuse, proxies."""

import gzip
import io
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.registry.loopback import (
    PUBLIC,
    Authority,
    Loopback,
    RawServer,
    Reply,
    Request,
    Server,
    canary_network,
)

from puna.errors import AddressRefused, FetchError, Interrupted, InvalidOption
from puna.registry.http import HttpClient, Response, Stalled, Upload, parse_proxy
from puna.registry.registries import Registry, registry_for

HOST = "registry.example.com"
URL = f"https://{HOST}/v2/"
PLAIN = registry_for(HOST, {}, insecure=True)
PLAIN_URL = f"http://{HOST}/v2/"
SECRET = b"TOP-SECRET-4711"

Starter = Callable[..., Server]
RawStarter = Callable[..., RawServer]


@pytest.fixture
def net() -> Iterator[Loopback]:
    with canary_network() as loopback:
        yield loopback


@pytest.fixture
def client(net: Loopback) -> Iterator[HttpClient]:
    with HttpClient(net.network(), lambda url: None) as client:
        yield client


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def secure(authority: Authority) -> Registry:
    """The registry at HOST, with the test's authority trusted."""
    return replace(registry_for(HOST, {}), ca=authority.file)


@pytest.fixture
def server(net: Loopback) -> Iterator[Starter]:
    """Starts a server at HOST, with TLS if a context is given."""
    started: list[Server] = []

    def start(answer: Callable[[Request], Reply], context: ssl.SSLContext | None = None) -> Server:
        started.append(Server(answer, context))
        net.add(HOST, started[-1], 443 if context else 80)
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def raw(net: Loopback) -> Iterator[RawStarter]:
    """Starts a server of bytes at HOST."""
    started: list[RawServer] = []

    def start(serve: Callable[[socket.socket], None], port: int = 80) -> RawServer:
        started.append(RawServer(serve))
        net.add(HOST, started[-1], port)
        return started[-1]

    yield start
    for each in started:
        each.close()


def says(*pieces: bytes, hold: bool = False) -> Callable[[socket.socket], None]:
    """A server that answers every connection with these bytes, and then closes or holds it."""

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        for piece in pieces:
            connection.sendall(piece)
        while hold and connection.recv(1):
            pass

    return serve


def get(client: HttpClient, **options: float) -> Response:
    return client.send("GET", PLAIN_URL, registry=PLAIN, **options)  # type: ignore[arg-type]  # two floats


def body(response: Response) -> bytes:
    content, buffer = b"", bytearray(1000)
    while count := response.readinto(buffer):
        content += buffer[:count]
    return content


# What is sent, and what comes back.


def test_a_request_and_its_answer(client: HttpClient, server: Starter) -> None:
    headers = [("WWW-Authenticate", "Basic"), ("www-authenticate", 'Bearer realm="x"'), ("X-Y", "1")]
    started = server(lambda request: Reply(401, headers, b"no"))
    url = PLAIN_URL + "library/m/tags?n=1#part"
    with client.send(
        "GET", url, registry=PLAIN, headers={"Accept": "a/b", "Authorization": "Basic x"}
    ) as answer:
        assert answer.status == 401
        assert answer.headers.get_all("WWW-AUTHENTICATE") == ["Basic", 'Bearer realm="x"']
        assert answer.headers["x-y"] == "1"
        assert answer.url == PLAIN_URL + "library/m/tags?n=1"
        assert answer.length == 2
        assert answer.read(100) == b"no"
    (request,) = started.requests
    assert (request.method, request.target) == ("GET", "/v2/library/m/tags?n=1")
    assert request.headers["host"] == HOST
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["authorization"] == "Basic x"
    assert request.headers["user-agent"].startswith("puna/")
    assert "content-length" not in request.headers


def test_registries_that_know_ollama_are_told_of_an_ollama(client: HttpClient, server: Starter) -> None:
    started = server(lambda request: Reply())
    client.send("GET", PLAIN_URL, registry=replace(PLAIN, ollama_key=True)).close()
    agent = started.requests[0].headers["user-agent"]
    assert agent.startswith("ollama/0.")
    assert "puna/" in agent


@pytest.mark.parametrize("status", [204, 301, 307, 404, 412, 500])
def test_any_status_is_an_answer_and_redirects_are_not_followed(
    client: HttpClient, server: Starter, status: int
) -> None:
    started = server(lambda request: Reply(status, [("Location", "http://127.0.0.3/")]))
    with get(client) as response:
        assert (response.status, response.read(10)) == (status, b"")
    assert len(started.requests) == 1


def test_bodies_are_sent(client: HttpClient, server: Starter) -> None:
    started = server(lambda request: Reply(201))
    content = bytes(range(256)) * 9000
    for sent in (b"", b"manifest", Upload(io.BytesIO(content + b"rest"), len(content))):
        client.send("PUT", PLAIN_URL, registry=PLAIN, body=sent).close()
    client.send("POST", PLAIN_URL, registry=PLAIN).close()
    assert [request.body for request in started.requests] == [b"", b"manifest", content, b""]
    assert started.requests[3].headers["content-length"] == "0"
    with pytest.raises(FetchError, match="ended 5 bytes early"):
        client.send("PUT", PLAIN_URL, registry=PLAIN, body=Upload(io.BytesIO(b"12345"), 10))


def test_head_has_a_length_and_no_body(client: HttpClient, server: Starter) -> None:
    server(lambda request: Reply(headers=[("Content-Length", "123456")]))
    for _ in range(2):
        with client.send("HEAD", PLAIN_URL, registry=PLAIN) as response:
            assert response.headers["content-length"] == "123456"
            assert response.read(10) == b""


@pytest.mark.parametrize("name", ["Authorization", "X"])
@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "\x00", "é", "\x7f"])
def test_headers_cannot_be_smuggled(client: HttpClient, server: Starter, name: str, value: str) -> None:
    started = server(lambda request: Reply())
    with pytest.raises(FetchError, match="characters it cannot have") as caught:
        client.send("GET", PLAIN_URL, registry=PLAIN, headers={name: value})
    assert value not in str(caught.value)
    assert started.requests == []


# Certificates.


def test_the_certificate_is_checked_against_the_name(
    client: HttpClient, server: Starter, net: Loopback, authority: Authority, secure: Registry
) -> None:
    started = server(lambda request: Reply(body=b"hello"), authority.context(HOST))
    with client.send("GET", URL, registry=secure) as response:
        assert response.read(10) == b"hello"
    assert started.server_names == [HOST]
    assert net.connected == [(PUBLIC, 443)]


@pytest.mark.parametrize(
    ("names", "trusted", "message"),
    [
        (["other.example.com"], True, "[Hh]ostname mismatch"),
        ([PUBLIC], True, "[Hh]ostname mismatch"),
        ([HOST], False, "unable to get local issuer certificate"),
    ],
)
def test_certificates_that_are_refused(
    client: HttpClient,
    server: Starter,
    authority: Authority,
    secure: Registry,
    names: list[str],
    trusted: bool,
    message: str,
) -> None:
    started = server(lambda request: Reply(body=SECRET), authority.context(*names))
    registry = secure if trusted else replace(secure, ca=None)
    with pytest.raises(FetchError, match=message) as caught:
        client.send("GET", URL, registry=registry, headers={"Authorization": "Bearer secret"})
    assert f"the certificate of {HOST} is not trusted" in str(caught.value)
    assert started.requests == []


def test_an_address_as_the_name(
    client: HttpClient, server: Starter, authority: Authority, secure: Registry
) -> None:
    server(lambda request: Reply(body=b"hello"), authority.context(PUBLIC))
    registry = replace(registry_for(PUBLIC, {}), ca=authority.file)
    with client.send("GET", f"https://{PUBLIC}/", registry=registry) as response:
        assert response.read(10) == b"hello"


def test_authority_files_that_are_none(
    client: HttpClient, server: Starter, authority: Authority, secure: Registry, tmp_path: Path
) -> None:
    server(lambda request: Reply(), authority.context(HOST))
    with pytest.raises(InvalidOption, match="No such file"):
        client.send("GET", URL, registry=replace(secure, ca=tmp_path / "none.pem"))
    (tmp_path / "junk.pem").write_text("junk")
    with pytest.raises(InvalidOption, match="holds no certificates"):
        client.send("GET", URL, registry=replace(secure, ca=tmp_path / "junk.pem"))


def test_a_server_without_tls(client: HttpClient, raw: RawStarter, secure: Registry) -> None:
    raw(says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), 443)
    with pytest.raises(FetchError, match="does not speak TLS"):
        client.send("GET", URL, registry=secure)


# Which addresses.


def test_plain_http_needs_leave_and_stays_on_the_host(client: HttpClient, net: Loopback) -> None:
    for url, registry in ((PLAIN_URL, registry_for(HOST, {})), ("http://other.example.com/", PLAIN)):
        with pytest.raises(AddressRefused, match="insecure protocol http"):
            client.send("GET", url, registry=registry)
    assert (net.resolved, net.connected) == ([], [])


def test_private_addresses_need_leave_and_it_is_for_the_registry_alone(
    client: HttpClient, server: Starter, net: Loopback
) -> None:
    started = server(lambda request: Reply())
    net.add(HOST, started, 80, "10.0.0.1")
    net.names["cdn.example.net"] = [["10.0.0.1"]]
    get(client).close()
    with pytest.raises(AddressRefused, match=r"cdn\.example\.net is refused"):
        client.send("GET", "https://cdn.example.net/", registry=PLAIN)
    with pytest.raises(AddressRefused, match="private = true"):
        client.send("GET", URL, registry=registry_for(HOST, {}))
    assert net.connected == [("10.0.0.1", 80)]


def test_what_leave_opened_is_not_reused_without_it(
    client: HttpClient, server: Starter, net: Loopback
) -> None:
    started = server(lambda request: Reply())
    net.add(HOST, started, 80, "10.0.0.1")
    get(client).close()
    with pytest.raises(AddressRefused):
        client.send("GET", PLAIN_URL, registry=replace(PLAIN, private=False))


# Connections are kept.


def test_connections_are_reused(
    client: HttpClient, server: Starter, authority: Authority, secure: Registry
) -> None:
    started = server(lambda request: Reply(body=b"x" * 5000), authority.context(HOST))
    for _ in range(3):
        with client.send("GET", URL, registry=secure) as response:
            assert len(response.read(5000)) == 5000
    with client.send("GET", URL, registry=secure) as response:
        assert len(body(response)) == 5000
    assert len({request.peer for request in started.requests}) == 1


def test_a_short_body_that_nobody_reads_costs_no_connection(client: HttpClient, server: Starter) -> None:
    started = server(lambda request: Reply(401, body=b"x" * 200))
    for _ in range(3):
        get(client).close()
    assert len({request.peer for request in started.requests}) == 1


def test_a_long_body_that_is_left_closes_the_connection(client: HttpClient, server: Starter) -> None:
    started = server(lambda request: Reply(body=b"x" * 50_000))
    for _ in range(2):
        get(client).close()
    assert len({request.peer for request in started.requests}) == 2


def test_a_connection_that_the_server_has_closed_is_replaced(client: HttpClient, raw: RawStarter) -> None:
    started = raw(says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
    for _ in range(3):
        with get(client) as response:
            assert response.read(2) == b"ok"
    assert started.connections == 3


def test_a_connection_that_ends_under_the_request_is_tried_again_once(
    client: HttpClient, raw: RawStarter
) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        connection.recv(65536)  # the second request gets no answer

    started = raw(serve)
    for _ in range(3):
        with get(client) as response:
            assert response.read(2) == b"ok"
    assert started.connections == 3
    with get(client) as response:
        response.read(2)
    with pytest.raises(FetchError, match="closed the connection"):
        client.send("POST", PLAIN_URL, registry=PLAIN, body=b"once")


def test_several_threads_use_one_client(client: HttpClient, server: Starter) -> None:
    started = server(lambda request: Reply(body=request.target.encode() * 100))
    wrong: list[int] = []

    def work(number: int) -> None:
        for turn in range(20):
            url = f"{PLAIN_URL}{number}/{turn}"
            with client.send("GET", url, registry=PLAIN) as response:
                if response.read(10_000) != f"/v2/{number}/{turn}".encode() * 100:
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert len(started.requests) == 160
    assert len({request.peer for request in started.requests}) <= 8


# Encodings and limits: A18.


@pytest.mark.parametrize(
    ("coding", "encode"), [("gzip", gzip.compress), ("GZIP", gzip.compress), ("deflate", zlib.compress)]
)
def test_encodings(
    client: HttpClient, server: Starter, coding: str, encode: Callable[[bytes], bytes]
) -> None:
    content = b"manifest" * 10_000
    server(lambda request: Reply(headers=[("Content-Encoding", coding)], body=encode(content)))
    with get(client) as response:
        assert response.read(len(content)) == content
    with get(client) as response, pytest.raises(FetchError, match="more than the 79999 bytes"):
        response.read(len(content) - 1)
    with get(client) as response, pytest.raises(FetchError, match="not asked for"):
        response.readinto(bytearray(100))


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "compress", "x" * 1000])
def test_other_encodings_are_refused(client: HttpClient, server: Starter, coding: str) -> None:
    server(lambda request: Reply(headers=[("Content-Encoding", coding)], body=SECRET))
    with get(client) as response, pytest.raises(FetchError, match="encoded as") as caught:
        response.read(1000)
    assert len(str(caught.value)) < 200


def bomb() -> bytes:
    """1 GiB of zeros in gzip, one member, made in pieces."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    piece = bytes(1 << 20)
    return b"".join([*(packer.compress(piece) for _ in range(1024)), packer.flush()])


def test_a_bomb_is_cut_at_the_limit(client: HttpClient, server: Starter) -> None:
    import tracemalloc

    packed = bomb()
    server(lambda request: Reply(headers=[("Content-Encoding", "gzip")], body=packed))
    tracemalloc.start()
    try:
        with get(client) as response, pytest.raises(FetchError, match="more than the 65536 bytes"):
            response.read(65536)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(b"x" * 1000, mtime=0)[:-10],
        gzip.compress(b"x" * 1000, mtime=0) + b"tail",
        gzip.compress(b"x", mtime=0) + gzip.compress(b"y", mtime=0),
        b"junk",
        zlib.compress(b"x" * 1000)[:12],
    ],
)
def test_damaged_encodings(client: HttpClient, server: Starter, packed: bytes) -> None:
    server(lambda request: Reply(headers=[("Content-Encoding", "gzip")], body=packed))
    with get(client) as response, pytest.raises(FetchError, match=r"damaged|cut short"):
        response.read(5000)


def test_an_encoding_that_never_gives_anything_is_cut(client: HttpClient, raw: RawStarter) -> None:
    empty = zlib.compressobj(9, zlib.DEFLATED, 31)
    start = empty.compress(b"") + empty.flush(zlib.Z_SYNC_FLUSH)
    block = b"\x00\x00\x00\xff\xff" * 1000

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + start)
        while True:
            connection.sendall(block)

    raw(serve)
    with get(client) as response, pytest.raises(FetchError, match="more than"):
        response.read(1000)


def test_bodies_over_the_limit(client: HttpClient, server: Starter) -> None:
    server(lambda request: Reply(body=b"x" * 1001))
    with get(client) as response, pytest.raises(FetchError, match=f"{HOST} sends more than the 1000 bytes"):
        response.read(1000)


def test_chunked_bodies(client: HttpClient, raw: RawStarter) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = b"3;ext=1\r\nabc\r\n1388\r\n" + b"x" * 5000 + b"\r\n0\r\nTrailer: 1\r\n\r\n"

    def serve(connection: socket.socket) -> None:
        while connection.recv(65536):
            connection.sendall(answer + pieces)

    started = raw(serve)
    with get(client) as response:
        assert response.length is None
        assert response.read(6000) == b"abc" + b"x" * 5000
    with get(client) as response:
        assert body(response) == b"abc" + b"x" * 5000
    assert started.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"Content-Length: 100\r\n\r\nshort",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
    ],
)
@pytest.mark.parametrize("how", ["read", "readinto"])
def test_bodies_that_are_cut_short(client: HttpClient, raw: RawStarter, answer: bytes, how: str) -> None:
    raw(says(b"HTTP/1.1 200 OK\r\n" + answer))
    with get(client) as response, pytest.raises(FetchError, match=HOST):
        response.read(1000) if how == "read" else body(response)


@pytest.mark.parametrize("length", [b"-1", b"x", b"", b"1.5", b"9" * 5000])
def test_lengths_that_are_none(client: HttpClient, raw: RawStarter, length: bytes) -> None:
    raw(says(b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\nall of it"))
    with get(client) as response, suppress(FetchError):
        assert response.read(1000) == b"all of it"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"junk\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"\x16\x03\x01\x00\x05junk",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000,
        b"HTTP/1.1 100 Continue\r\n" + b"A: " + b"x" * 10_000 + b"\r\n",
    ],
)
def test_answers_that_are_none(client: HttpClient, raw: RawStarter, answer: bytes) -> None:
    raw(says(answer))
    with pytest.raises(FetchError) as caught:
        get(client)
    assert HOST in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_endless_trailers_are_cut(client: HttpClient, raw: RawStarter) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
        while True:
            connection.sendall(b"A: b\r\n" * 1000)

    raw(serve)
    with get(client) as response, pytest.raises(FetchError, match="more around its content"):
        body(response)


# Time: A19.


def drip(text: bytes) -> Callable[[socket.socket], None]:
    """Sends `text` over and over, a byte every hundredth of a second."""

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        gap = threading.Event()
        while True:
            for index in range(len(text)):
                connection.sendall(text[index : index + 1])
                gap.wait(0.01)

    return serve


@pytest.mark.parametrize("text", [b"A: b\r\n", b"\r\n" + b"x" * 1000])
def test_a_trickle_ends_by_the_deadline(client: HttpClient, raw: RawStarter, text: bytes) -> None:
    raw(drip(text))
    with (
        pytest.raises(Stalled, match=f"{HOST} did not answer in time"),
        get(client, deadline=0.3) as response,
    ):
        response.read(1 << 20)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_says_nothing(
    client: HttpClient, raw: RawStarter, secure: Registry, scheme: str
) -> None:
    """With https, it is the handshake that stalls."""
    raw(says(hold=True), 443 if scheme == "https" else 80)
    registry = secure if scheme == "https" else PLAIN
    with pytest.raises(Stalled):
        client.send("GET", f"{scheme}://{HOST}/", registry=registry, deadline=0.2, idle_timeout=600)


def test_one_stalled_handshake_does_not_hold_up_others(
    client: HttpClient,
    server: Starter,
    raw: RawStarter,
    net: Loopback,
    authority: Authority,
    secure: Registry,
) -> None:
    began = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(1)
        began.set()
        while connection.recv(65536):
            pass

    stalling = raw(serve, 443)
    net.add("stalls.example.com", stalling, 443, "1.1.1.1")
    server(lambda request: Reply(body=b"hello"), authority.context(HOST))
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            client.send("GET", "https://stalls.example.com/", registry=secure, deadline=30)
        except Interrupted as error:
            failures.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert began.wait(10)
    with client.send("GET", URL, registry=secure, deadline=10) as response:
        assert response.read(10) == b"hello"
    client.close()
    waiting.join(10)
    assert len(failures) == 1


def test_a_body_that_stalls(client: HttpClient, raw: RawStarter) -> None:
    raw(says(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nstart", hold=True))
    with get(client, deadline=0.2, idle_timeout=0.3) as response:
        buffer = bytearray(100)
        assert response.readinto(buffer) == 5
        with pytest.raises(Stalled, match=r"has stalled: nothing came for 0\.3 s"):
            response.readinto(buffer)


def test_a_body_may_take_longer_than_the_deadline(client: HttpClient, raw: RawStarter) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n")
        for _ in range(30):
            connection.sendall(b"x")
            threading.Event().wait(0.01)

    raw(serve)
    with get(client, deadline=0.1) as response:
        assert body(response) == b"x" * 30


def test_an_upload_that_nobody_reads_stalls(client: HttpClient, raw: RawStarter) -> None:
    done = threading.Event()
    raw(lambda connection: (connection.recv(10), done.wait(20), None)[-1])
    with pytest.raises(Stalled, match="has stalled"):
        client.send("PUT", PLAIN_URL, registry=PLAIN, body=bytes(1 << 26), idle_timeout=0.3)
    done.set()


def test_an_answer_that_comes_before_the_upload_is_over_is_read(client: HttpClient, raw: RawStarter) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1000)

    raw(serve)
    try:
        response = client.send("PUT", PLAIN_URL, registry=PLAIN, body=bytes(1 << 24))
    except FetchError:  # a reset may overtake the answer
        return
    with response:
        assert response.status == 401


# Stopping.


def stopped_by(
    act: Callable[[], object], started: threading.Event, stop: Callable[[], None]
) -> BaseException:
    """The error that `act` ends with in another thread, when `stop` is called after `started`."""
    caught: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except (FetchError, Interrupted) as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(10)
    stop()
    thread.join(10)
    assert not thread.is_alive()
    (error,) = caught
    return error


@pytest.mark.parametrize("tls", [False, True])
def test_abort_ends_a_read_that_waits(
    client: HttpClient, net: Loopback, authority: Authority, secure: Registry, raw: RawStarter, tls: bool
) -> None:
    began = threading.Event()
    context = authority.context(HOST)

    def serve(connection: socket.socket) -> None:
        if tls:
            connection = context.wrap_socket(connection, server_side=True)
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nstart")
            while connection.recv(1):
                pass

    raw(serve, 443 if tls else 80)
    response = client.send("GET", URL, registry=secure) if tls else get(client)
    buffer = bytearray(100)

    def read() -> None:
        response.readinto(buffer)
        began.set()
        response.readinto(buffer)

    assert isinstance(stopped_by(read, began, response.abort), Interrupted)
    response.close()


def test_close_ends_a_wait_for_the_answer(client: HttpClient, raw: RawStarter) -> None:
    began = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        began.set()
        connection.recv(1)

    raw(serve)
    assert isinstance(stopped_by(lambda: get(client), began, client.close), Interrupted)
    with pytest.raises(Interrupted):
        get(client)


def test_close_ends_a_wait_for_the_connection() -> None:
    began, go_on = threading.Event(), threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        began.set()
        go_on.wait(20)
        return []

    from puna.registry.network import Network

    client = HttpClient(Network(resolve), lambda url: None)
    assert isinstance(stopped_by(lambda: get(client), began, client.close), Interrupted)
    go_on.set()


# Nothing of what a server says is repeated: A17.


def test_errors_repeat_nothing(client: HttpClient, raw: RawStarter) -> None:
    raw(says(SECRET + b"\r\nX: " + SECRET + b"\r\n\r\n" + SECRET))
    with pytest.raises(FetchError) as caught:
        get(client)
    error: BaseException | None = caught.value
    assert SECRET.decode() not in str(error)


# Proxies.


def test_a_tunnel_through_a_proxy(
    net: Loopback, server: Starter, raw: RawStarter, authority: Authority, secure: Registry
) -> None:
    """The proxy resolves, encryption is with the registry, and the proxy may be at a private address."""
    target = server(lambda request: Reply(body=request.target.encode()), authority.context(HOST))
    asked: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n")
        with socket.create_connection(("127.0.0.1", target.port)) as far:
            pump = threading.Thread(target=copy, args=(far, connection), daemon=True)
            pump.start()
            copy(connection, far)
            pump.join(10)

    proxy = raw(serve)
    net.names.clear()
    net.servers.clear()
    net.add("proxy.lan", proxy, 3128, "10.0.0.9")
    with HttpClient(net.network(), lambda url: "http://user:p%40ss@proxy.lan:3128") as client:
        for path in ("/a", "/b"):
            with client.send("GET", f"https://{HOST}{path}", registry=secure) as response:
                assert response.read(10) == path.encode()
        with pytest.raises(AddressRefused, match=r"169\.254\.169\.254 is refused"):
            client.send("GET", "https://169.254.169.254/", registry=registry_for("169.254.169.254", {}))
        with pytest.raises(AddressRefused):
            client.send("GET", "https://localhost/", registry=registry_for("localhost", {}))
    (request,) = asked
    assert request.startswith(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n".encode())
    assert b"Proxy-Authorization: Basic dXNlcjpwQHNz\r\n" in request
    assert net.resolved == ["proxy.lan"]
    assert target.server_names == [HOST]
    assert all("proxy-authorization" not in request.headers for request in target.requests)


def copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def test_plain_http_through_a_proxy(net: Loopback) -> None:
    proxy = Server(lambda request: Reply(body=request.target.encode()))
    net.add("proxy.lan", proxy, 3128, "10.0.0.9")
    with HttpClient(net.network(), lambda url: "proxy.lan:3128") as client, get(client) as response:
        assert response.read(100) == PLAIN_URL.encode()
    assert proxy.requests[0].headers["host"] == HOST
    proxy.close()


def test_a_proxy_that_refuses(net: Loopback, raw: RawStarter, secure: Registry) -> None:
    proxy = raw(says(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n" + SECRET))
    net.add("proxy.lan", proxy, 3128, "10.0.0.9")
    message = rf"proxy\.lan does not connect to {HOST}: status 407$"
    client = HttpClient(net.network(), lambda url: "http://proxy.lan:3128")
    with client, pytest.raises(FetchError, match=message):
        client.send("GET", URL, registry=secure)


@pytest.mark.parametrize(
    "text", ["https://u:hidden@p", "socks5://u:hidden@p:1", "http://u:hidden@:1", "http://p:x"]
)
def test_proxies_that_are_not_supported(text: str) -> None:
    with pytest.raises(InvalidOption, match="proxy") as caught:
        parse_proxy(text)
    assert "hidden" not in str(caught.value)
    assert "hidden" not in repr(parse_proxy("http://u:hidden@p:1"))


def test_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from puna import settings

    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert settings.proxy_for(URL) is None
    monkeypatch.setenv("https_proxy", "http://p:3128")
    monkeypatch.setenv("no_proxy", "internal.example.com,.lan")
    assert settings.proxy_for(URL) == "http://p:3128"
    assert settings.proxy_for(PLAIN_URL) is None
    assert settings.proxy_for("https://internal.example.com/") is None
    assert settings.proxy_for("https://registry.lan:5000/") is None
    monkeypatch.delenv("https_proxy")
    monkeypatch.setenv("ALL_PROXY", "http://q:1")
    assert settings.proxy_for(PLAIN_URL) == "http://q:1"
