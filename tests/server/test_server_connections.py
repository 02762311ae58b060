"""What a client does to a connection: heads and bodies without end, slowness, smuggling, idleness."""

import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.server.conftest import Running, Serve, read_all, read_answers

from puna.server.protocol import LimitedProtocol

HEAD = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /api/show HTTP/1.1\r\nHost: localhost\r\n"


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", answer)]


def pour(running: Running, start: bytes, piece: bytes, times: int) -> bytes:
    """What comes back while `start`, and `piece` again and again, are sent, as far as they are taken."""
    with running.socket() as connection:
        try:
            connection.sendall(start)
            for _ in range(times):
                connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return read_all(connection)


def still_works(running: Running) -> None:
    assert running.get("/api/version").status == 200


def test_one_endless_header(server: Serve) -> None:
    """D10"""
    running = server()
    assert statuses(pour(running, HEAD + b"X-Long: ", b"x" * 65536, 160)) in ([431], [])
    assert statuses(running.raw(HEAD + b"X-Long: " + b"x" * 70_000 + b"\r\n\r\n")) == [431]
    assert statuses(running.raw(HEAD + b"X-Long: " + b"x" * 60_000 + b"\r\nConnection: close\r\n\r\n")) == [
        200
    ]
    still_works(running)


def test_many_headers(server: Serve) -> None:
    """D10"""
    running = server()
    lines = b"".join(b"X-%d: y\r\n" % number for number in range(200))
    assert statuses(running.raw(HEAD + lines + b"\r\n")) == [431]
    assert statuses(pour(running, HEAD, b"A: b\r\n" * 1000, 1000)) in ([431], [])
    still_works(running)


def test_an_endless_target(server: Serve) -> None:
    """D10"""
    running = server()
    assert statuses(running.raw(b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")) == [414]
    assert statuses(pour(running, b"GET /", b"x" * 65536, 160)) in ([414], [])
    still_works(running)


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        POST + b"Content-Length: -1\r\n\r\n{}",
        POST + b"Content-Length: +2\r\n\r\n{}",
        POST + b"Content-Length: 2x\r\n\r\n{}",
        POST + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"POST /api/show HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n X: folded\r\n\r\n",
        b"GET /api/ver\x00sion HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_and_ends_the_connection(server: Serve, request_: bytes) -> None:
    """D11: nothing that two programs could read in two ways is read at all."""
    running = server()
    answer = running.raw(request_ + b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert statuses(answer) == [400]
    assert b'{"error":' in answer and b'"models"' not in answer
    still_works(running)


BAD_HEADS = {
    "a long target": (b"?" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n%s\r\n", 414),
    "many headers": (b" HTTP/1.1\r\nHost: localhost\r\n%s" + b"A: b\r\n" * 200 + b"\r\n", 431),
    "a long header": (b" HTTP/1.1\r\nHost: localhost\r\n%sA: " + b"x" * 70_000 + b"\r\n\r\n", 431),
    "no header": (b" HTTP/1.1\r\nHost: localhost\r\n%sA\x01: b\r\n\r\n", 400),
    "two lengths": (
        b" HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        400,
    ),
    "another protocol": (b" HTTP/9.9\r\nHost: localhost\r\n%s\r\n", 400),
}


@pytest.mark.parametrize("kind", BAD_HEADS)
def test_a_head_that_is_not_taken_is_refused_in_the_dialect_of_its_path(server: Serve, kind: str) -> None:
    running = server()
    rest, status = BAD_HEADS[kind]

    def refused(path: bytes, header: bytes = b"") -> Any:
        answer = running.raw(b"POST " + path + rest % header)
        assert statuses(answer) == [status]
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"connection: close" in head and b"content-type: application/json" in head
        assert b"content-length: %d" % len(body) in head
        return json.loads(body)

    text = refused(b"/api/chat")["error"]
    assert isinstance(text, str)
    openai = refused(b"/v1/chat/completions")["error"]
    assert openai == {"message": text, "type": "invalid_request_error", "param": None, "code": None}
    anthropic = {"type": "error", "error": {"type": "invalid_request_error", "message": text}}
    assert refused(b"/v1/messages") == {**anthropic, "request_id": None}
    if kind in ("many headers", "a long header", "two lengths"):
        # The headers before the fault tell too, where they have been read.
        version = b"anthropic-version: 2023-06-01\r\n"
        assert refused(b"/v1/models", version) == {**anthropic, "request_id": None}
    still_works(running)


def test_what_is_no_request_is_refused_in_the_native_dialect(server: Serve) -> None:
    running = server()
    for head in (b"\x16\x03\x01\x02\r\n\r\n", b"POST v1/messages HTTP/1.1\r\n\r\n", b"/v1/messages\r\n\r\n"):
        answer = running.raw(head)
        assert statuses(answer) == [400]
        assert {*json.loads(answer.partition(b"\r\n\r\n")[2])} == {"error"}


def test_requests_in_a_row_on_one_connection(server: Serve) -> None:
    running = server()
    answer = running.raw(HEAD + b"\r\n" + HEAD + b"\r\n" + HEAD + b"Connection: close\r\n\r\n", 3)
    assert statuses(answer) == [200, 200, 200]


def test_small_pieces_do_not_wait_for_the_client_to_confirm_others(server: Serve) -> None:
    """Nagle's algorithm would hold each line of a stream back for tens of milliseconds."""
    running = server()
    with running.socket() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_answers(connection, 1).startswith(b"HTTP/1.1 200")
        (protocol,) = running.server.server_state.connections
        assert isinstance(protocol, LimitedProtocol)
        ours = protocol.transport.get_extra_info("socket")
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_too_many_requests_in_a_row_on_one_connection(server: Serve) -> None:
    """D12: none waits but a few, however short they are; browsers and libraries send one after another."""
    running = server()
    assert statuses(running.raw((HEAD + b"\r\n") * 16, 16)) == [200] * 16
    with running.socket() as connection:
        connection.sendall((HEAD + b"\r\n") * 5000)
        assert len(statuses(read_all(connection))) <= 17
    assert running.log.getvalue().count("path=/api/version") <= 16 + 17
    still_works(running)


def test_a_body_that_is_too_long(server: Serve) -> None:
    """D11: what is declared is enough; what is not declared is read no further than it may be."""
    running = server(max_body=1000)
    assert running.post("/api/show", b'{"model":"' + b"x" * 980 + b'"}').status == 400
    reply = running.post("/api/show", b" " * 1001)
    assert (reply.status, reply.error) == (413, "request body too large: the limit is 1000 bytes")
    with running.socket() as connection:
        connection.sendall(POST + b"Content-Length: 10000000000\r\n\r\n")
        assert statuses(connection.recv(65536)) == [413]
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    with running.socket() as connection:
        connection.sendall(chunked + b"400\r\n" + b" " * 1024 + b"\r\n")
        assert statuses(connection.recv(65536)) == [413]
    still_works(running)


def test_a_compressed_body_is_not_taken(server: Serve) -> None:
    """D11"""
    running = server()
    for coding in ("gzip", "zstd", "br", "deflate, gzip"):
        assert running.post("/api/show", b"x", {"Content-Encoding": coding}).status == 415
    assert running.post("/api/show", b"{}", {"Content-Encoding": "identity"}).status == 400


def test_the_content_type_says_nothing(server: Serve) -> None:
    running = server()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"):
        reply = running.post("/api/show", {"model": "nope"}, {"Content-Type": kind})
        assert reply.status == 404


def test_a_head_that_does_not_end(server: Serve) -> None:
    """D12"""
    running = server(header_timeout=0.3)
    with running.socket() as connection:
        connection.sendall(HEAD)
        assert statuses(read_all(connection)) == [408]
    with running.socket() as connection:
        assert read_all(connection) == b""  # it never began
    still_works(running)


def test_a_head_that_drips_has_no_more_time(server: Serve) -> None:
    running = server(header_timeout=0.5)
    with running.socket() as connection:
        answer = b""
        for _ in drip(connection, b"GET / HTTP/1.1\r\nX: ", b"y"):
            pass
        answer = read_all(connection)
    assert statuses(answer) in ([408], [])


def test_a_second_head_that_does_not_end(server: Serve) -> None:
    running = server(header_timeout=0.3, idle_timeout=60)
    with running.socket() as connection:
        connection.sendall(HEAD + b"\r\n")
        assert statuses(connection.recv(65536)) == [200]
        connection.sendall(b"GET / HTTP")
        assert statuses(read_all(connection)) == [408]


def drip(connection: socket.socket, start: bytes, piece: bytes) -> Iterator[None]:
    """Sends a piece every 50 ms until the other side has had enough; half a minute at most."""
    connection.sendall(start)
    for _ in range(600):
        try:
            connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            return
        time.sleep(0.05)
        yield
    raise AssertionError("it takes anything")


def test_a_body_that_does_not_end(server: Serve) -> None:
    """D12"""
    running = server(body_timeout=0.3)
    with running.socket() as connection:
        connection.sendall(POST + b"Content-Length: 1000\r\n\r\n{")
        assert statuses(read_all(connection)) == [408]
    with running.socket() as connection:
        for _ in drip(connection, POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"):
            pass
    still_works(running)


def test_an_endless_chunk_extension(server: Serve) -> None:
    """D11: it is not kept, and the body's time goes on."""
    running = server(body_timeout=0.5)
    answer = pour(running, POST + b"Transfer-Encoding: chunked\r\n\r\n1;x=", b"y" * 65536, 2000)
    assert statuses(answer) in ([408], [400], [])
    still_works(running)


def test_an_idle_connection_ends(server: Serve) -> None:
    running = server(idle_timeout=1.0)
    with running.socket() as connection:
        connection.sendall(HEAD + b"\r\n")
        assert statuses(read_all(connection)) == [200]


def test_a_body_that_nobody_wanted_may_not_take_for_ever(server: Serve) -> None:
    running = server()
    with running.socket() as connection:
        connection.sendall(b"POST /nope HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345")
        assert statuses(read_answers(connection, 1)) == [404]
        # What is still to come of it is passed over, and the connection goes on.
        connection.sendall(b"67890" + HEAD + b"\r\n")
        assert statuses(read_answers(connection, 1)) == [200]


def test_idle_connections_make_room(server: Serve) -> None:
    """D12: whoever was idle for longest has to go, not whoever comes."""
    running = server(max_connections=8)
    held = [socket.create_connection((running.host, running.port), timeout=30) for _ in range(40)]
    try:
        for _ in range(20):
            still_works(running)
        with running.socket() as connection:
            connection.sendall(HEAD + b"\r\n")
            assert statuses(connection.recv(65536)) == [200]
        assert held[0].recv(1) == b""
    finally:
        for connection in held:
            connection.close()


def test_connections_that_are_at_work_stay(server: Serve) -> None:
    running = server(max_connections=2)
    with running.socket() as first, running.socket() as second:
        for connection in (first, second):
            connection.sendall(POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
            assert statuses(connection.recv(65536)) == [100]
        with running.socket() as third:
            assert statuses(read_all(third)) == [503]
        for connection in (first, second):
            connection.sendall(b"{}")
            assert statuses(connection.recv(65536)) == [400]
