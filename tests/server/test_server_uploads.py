"""Files of models that clients send."""

import hashlib
import os
import socket
import threading
from pathlib import Path

import pytest
from tests.server.conftest import TIMEOUT, Running, Serve, read_reply

from puna.store.digest import Digest
from puna.store.library import Library


def named(content: bytes) -> str:
    return f"/api/blobs/sha256:{hashlib.sha256(content).hexdigest()}"


def files(folder: Path) -> set[str]:
    """What there is under a folder, which may vanish while one looks."""
    return {
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in os.walk(folder)
        for name in names
    }


def settle(running: Running, expected: set[str]) -> None:
    """Waits until the store has these files and no others."""
    for _ in range(3000):
        if files(running.library.root) == expected and not running.server.server_state.tasks:
            return
        threading.Event().wait(0.01)
    assert files(running.library.root) == expected


def test_a_blob_is_stored_once(server: Serve, library: Library) -> None:
    running, content = server(), os.urandom(3_000_000)
    assert running.ask("HEAD", named(content)).status == 404
    reply = running.post(named(content), content)
    assert (reply.status, reply.body) == (201, b"")
    assert running.ask("HEAD", named(content)).status == 200
    assert library.blobs.path(Digest(hashlib.sha256(content).hexdigest())).read_bytes() == content
    again = running.post(named(content), b"anything: it is not looked at")
    assert (again.status, again.body) == (200, b"")
    # Both spellings of a digest are one blob.
    assert running.ask("HEAD", named(content).replace("sha256:", "sha256-")).status == 200


def test_a_blob_may_come_in_chunks_and_empty(server: Serve) -> None:
    running, content = server(), os.urandom(1_500_000)
    with running.connection() as connection:
        pieces = (content[start : start + 70_000] for start in range(0, len(content), 70_000))
        connection.request(
            "POST", named(content), pieces, encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
        )
        assert read_reply(connection).status == 201
    assert running.post(named(b""), b"").status == 201


def test_other_content_leaves_nothing(server: Serve, library: Library) -> None:
    """B07"""
    running, content = server(), b"other content"
    wrong, right = "0" * 64, hashlib.sha256(content).hexdigest()
    for spelling in (f"sha256:{wrong}", f"sha256-{wrong}"):
        reply = running.post(f"/api/blobs/{spelling}", content)
        assert reply.status == 400
        assert reply.error == f'digest mismatch, expected "sha256:{wrong}", got "sha256:{right}"'
    assert not library.root.exists() or files(library.root) == set()


def test_half_a_blob_leaves_nothing(server: Serve, library: Library) -> None:
    """B07"""
    running, content = server(), os.urandom(3_000_000)
    with running.socket() as connection:
        head = f"POST {named(content)} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content[:2_500_000])
        for _ in range(3000):
            if any(name.endswith(".tmp") for name in files(library.root)):
                break
            threading.Event().wait(0.01)
    settle(running, set())
    assert running.post(named(content), content).status == 201


def test_a_blob_that_does_not_come_leaves_nothing(server: Serve) -> None:
    running, content = server(body_timeout=0.3), b"x" * 100
    with running.socket() as connection:
        head = f"POST {named(content)} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nxxx"
        connection.sendall(head.encode())
        assert b" 408 " in connection.recv(65536)
    settle(running, set())


def test_two_uploads_of_one_digest_with_different_bytes(server: Serve, library: Library) -> None:
    """B07: each is judged by what it sends."""
    running, right = server(), b"r" * 2_000_000
    wrong = right[:-1] + b"x"
    with running.socket() as first, running.socket() as second:
        for connection in (first, second):
            head = f"POST {named(right)} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(right)}\r\n\r\n"
            connection.sendall(head.encode())
        halfway = len(right) // 2
        for start, end in ((0, halfway), (halfway, len(right))):
            first.sendall(wrong[start:end])
            second.sendall(right[start:end])
        assert (status(first), status(second)) == (400, 201)
    digest = hashlib.sha256(right).hexdigest()
    settle(running, {f"blobs/sha256-{digest}", f".puna/verified/{digest}"})


def status(connection: socket.socket) -> int:
    return int(connection.recv(65536).split(b" ")[1])


def test_a_blob_that_does_not_fit_is_refused_before_it_comes(server: Serve, library: Library) -> None:
    running = server()
    with running.socket() as connection:
        head = f"POST {named(b'x')} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {10**17}\r\n\r\n"
        connection.sendall(head.encode())
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 507 ")
    assert str(library.root).encode() not in answer and b"/blobs" not in answer


HEX = "ab" * 32


@pytest.mark.parametrize(
    "text",
    [
        *(
            "sha256:..%2f..%2fx",
            "sha256:../../etc/passwd",
            "sha256:" + HEX[1:],
            "sha256:" + HEX + "a",
            "x",
            "",
        ),
        *(
            "sha256:" + HEX.upper(),
            "SHA256:" + HEX,
            "sha512:" + HEX * 2,
            f"sha256:{HEX}%00",
            f"sha256:{HEX}%0a",
        ),
        *(
            f"sha256_{HEX}",
            f"sha256:{HEX}/",
            f"/sha256:{HEX}",
            f"sha256:{HEX}%2f..",
            "sha256:" + "%EF%BC%91" * 64,
        ),
    ],
)
def test_digests_that_are_none(server: Serve, library: Library, text: str) -> None:
    """B08"""
    running = server()
    reply = running.post(f"/api/blobs/{text}", b"content")
    control = "%0" in text
    expected = "a path has no control characters" if control else "invalid digest format"
    assert (reply.status, reply.error) == (400, expected)
    assert running.ask("HEAD", f"/api/blobs/{text}").status == 400
    assert not library.root.exists()


def test_an_upload_ends_with_the_server(server: Serve) -> None:
    running, content = server(shutdown_grace=1.0), os.urandom(3_000_000)
    with running.socket() as connection:
        head = f"POST {named(content)} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content[:1000])
        for _ in range(3000):
            if running.server.server_state.tasks:
                break
            threading.Event().wait(0.01)
        running.server.stop()
        connection.settimeout(TIMEOUT)
        assert connection.recv(65536).startswith(b"HTTP/1.1 503 ")
    settle(running, set())
