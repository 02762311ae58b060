"""The rogue registry and its bombs are what they say, by the word of curl and gzip."""

import gzip
import shutil
import socket
import ssl
import subprocess
import zlib
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

import pytest
from tests.registry.bombs import gzip_zeros, gzipped, zlib_zeros, zstd_zeros
from tests.registry.certificates import self_signed
from tests.registry.images import digest_of, image
from tests.registry.rogue_registry import Reply, Request, rogue

MIB = 1 << 20
IMAGE = image(b"the model's file", ("license", b"do as you like"))


def curl(*arguments: str) -> bytes:
    return subprocess.run(["curl", "-s", "--max-time", "20", *arguments], capture_output=True).stdout


def status(*arguments: str) -> str:
    return curl("-o", "/dev/null", "-w", "%{http_code} %{redirect_url} %{exitcode}", *arguments).decode()


def test_by_itself_it_is_an_honest_registry() -> None:
    with rogue(IMAGE, host="127.0.0.9") as registry:
        assert registry.url.startswith("http://127.0.0.9:")
        assert curl(f"{registry.url}/v2/a/b/manifests/c") == IMAGE.manifest
        for digest, content in IMAGE.blobs.items():
            assert digest_of(content) == digest
            assert curl(f"{registry.url}/v2/a/b/blobs/{digest}") == content
            assert curl("-r", "2-4", f"{registry.url}/v2/a/b/blobs/{digest}") == content[2:5]
        assert status(f"{registry.url}/v2/a/b/blobs/sha256:0") == "404  0"
        assert [request.method for request in registry.asked("/v2/a/b/blobs/.*")] == ["GET"] * 7
        assert registry.requests[0].headers["user-agent"].startswith("curl/")


def test_answers_are_given_in_order_and_the_last_for_ever() -> None:
    with rogue(IMAGE) as registry:
        registry.answer("/v2/.*", Reply(307, headers=[("Location", "http://x.test/")]), Reply(500))
        registry.answer("/v2/", lambda request: Reply(body=request.method.encode()), method="POST")
        url = f"{registry.url}/v2/"
        assert [status(url) for _ in range(3)] == ["307 http://x.test/ 0", "500  0", "500  0"]
        assert curl("-d", "text", url) == b"POST"
        assert registry.requests[-1] == Request("POST", "/v2/", registry.requests[-1].headers, b"text")


def test_lengths_may_lie_and_heads_may_be_anything() -> None:
    with rogue() as registry:
        registry.answer("/short", Reply(body=b"12345", length="9"))
        registry.answer("/open", Reply(body=lambda: iter([b"1", b"2"])))
        registry.answer("/raw", Reply(head=b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n", body=b"z"))
        assert status(f"{registry.url}/short").endswith(" 18")  # a part of the file only
        assert curl(f"{registry.url}/open") == b"12"
        assert curl("-i", f"{registry.url}/raw") == b"HTTP/1.1 200 OK\r\nX: y\r\n\r\nz"


def test_a_stalled_reply_lasts_until_the_client_goes() -> None:
    with rogue() as registry:
        registry.answer("/slow", Reply(body=b"12", length="5", stall=True))
        with socket.create_connection((registry.host, registry.port)) as client:
            client.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
            client.settimeout(0.3)
            got = b""
            with pytest.raises(TimeoutError):
                while piece := client.recv(1000):
                    got += piece
        assert got.endswith(b"\r\n\r\n12")


def test_it_ends_although_clients_stay() -> None:
    with rogue(silent=True) as registry:
        clients = [socket.create_connection((registry.host, registry.port)) for _ in range(3)]
    for client in clients:
        with client, suppress(ConnectionResetError):  # those not accepted yet
            assert client.recv(1) == b""


def test_https(tmp_path: Path) -> None:
    identity = self_signed("127.0.0.2", "registry.test")
    authority = tmp_path / "authority.pem"
    authority.write_bytes(identity.pem)
    with rogue(IMAGE, tls=identity.server_context(tmp_path)) as registry:
        assert curl(f"{registry.url}/v2/") == b""
        assert curl("--cacert", str(authority), f"{registry.url}/v2/") == b"{}"


def test_a_silent_one_stalls_the_handshake() -> None:
    with rogue(silent=True) as registry:
        context = ssl.create_default_context()
        client = socket.create_connection((registry.host, registry.port), timeout=0.3)
        with client, pytest.raises(TimeoutError):
            context.wrap_socket(client, server_hostname="x")
        assert registry.requests == []


def test_bombs_hold_what_they_say() -> None:
    zeros = bytes(3 * MIB)
    assert gzip.decompress(b"".join(gzip_zeros(3 * MIB))) == zeros
    assert gzip.decompress(gzip.decompress(b"".join(gzipped(gzip_zeros(3 * MIB))))) == zeros
    assert zlib.decompress(b"".join(zlib_zeros(3 * MIB))) == zeros


def test_a_bomb_of_10_gib_is_small() -> None:
    sent = sum(map(len, islice(gzip_zeros(10 << 30), 1, 101)))
    assert sent < 100 * 2000  # 100 MiB in 200 kB
    assert sum(map(len, gzipped(gzip_zeros(100 * MIB)))) < 20_000


@pytest.mark.skipif(shutil.which("zstd") is None, reason="no zstd program")
def test_the_zstd_bomb_by_the_word_of_zstd(tmp_path: Path) -> None:
    packed = tmp_path / "zeros.zst"
    packed.write_bytes(b"".join(zstd_zeros(3 * MIB + 5)))
    assert subprocess.run(["zstd", "-dcq", packed], capture_output=True).stdout == bytes(3 * MIB + 5)


def test_a_bomb_goes_through_http() -> None:
    with rogue() as registry:
        headers = [("Content-Encoding", "gzip")]
        registry.answer("/bomb", Reply(headers=headers, body=lambda: gzip_zeros(20 * MIB)))
        assert curl("--compressed", f"{registry.url}/bomb") == bytes(20 * MIB)
        packed = b"".join(chain(gzip_zeros(20 * MIB)))
        assert curl(f"{registry.url}/bomb") == packed
