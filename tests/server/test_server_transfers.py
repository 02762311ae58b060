"""Pulls and pushes through the server: a real registry, and what strangers may not have it do."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.registry import docker_registry
from tests.registry.docker_registry import DockerRegistry
from tests.registry.images import image
from tests.server.conftest import TIMEOUT, Running, Serve

from puna.store.library import Library
from puna.store.name import parse_name


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    with docker_registry.anonymous(tmp_path / "registry") as running:
        yield running


def configure(tmp_path: Path, *hosts: str) -> None:
    """Let the server's configuration have these registries, at private addresses and without encryption."""
    tables = [f'[registries."{host}"]\nplain_http = true\nprivate = true\n' for host in hosts]
    (tmp_path / "config.toml").write_text("\n".join(tables))


def test_pull(server: Serve, registry: DockerRegistry, tmp_path: Path, library: Library) -> None:
    held = image(b"GGUF" + b"x" * 300_000)
    registry.hold(held, "me/model", "v1")
    configure(tmp_path, registry.address)
    running, name = server(), f"{registry.address}/me/model:v1"
    reply = running.post("/api/pull", {"model": name, "insecure": True, "password": "ignored"})
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/x-ndjson"
    lines = reply.lines
    assert lines[0] == {"status": "pulling manifest"}
    assert [line["status"] for line in lines[-3:]] == [
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    for line in lines[1:-3]:
        assert line["status"] == f"pulling {line['digest'].removeprefix('sha256:')[:12]}"
        assert 0 <= line.get("completed", 0) <= line["total"]
    assert library.manifests.existing(parse_name(name)).read_bytes() == held.manifest
    again = running.post("/api/pull", {"name": name, "stream": False})
    assert (again.status, again.json) == (200, {"status": "success"})
    assert again.headers["content-type"] == "application/json"
    missing = running.post("/api/pull", {"model": f"{registry.address}/me/none"})
    assert missing.lines == [
        {"status": "pulling manifest"},
        {"error": "pull model manifest: file does not exist"},
    ]
    missing = running.post("/api/pull", {"model": f"{registry.address}/me/none", "stream": False})
    assert (missing.status, missing.error) == (404, "pull model manifest: file does not exist")


def test_two_pulls_at_once(server: Serve, registry: DockerRegistry, tmp_path: Path) -> None:
    registry.hold(image(b"GGUF" + b"y" * 3_000_000), "me/model")
    configure(tmp_path, registry.address)
    running, ends = server(), list[object]()

    def pull() -> None:
        ends.append(running.post("/api/pull", {"model": f"{registry.address}/me/model"}).lines[-1])

    threads = [threading.Thread(target=pull) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == [{"status": "success"}] * 4


def test_push(server: Serve, registry: DockerRegistry, tmp_path: Path, gguf: bytes) -> None:
    configure(tmp_path, registry.address)
    running, name = server(), f"{registry.address}/me/mine:v2"
    make(running, gguf, name)
    reply = running.post("/api/push", {"model": name})
    statuses = [line["status"] for line in reply.lines]
    assert statuses[0] == "retrieving manifest"
    assert statuses[-2:] == ["pushing manifest", "success"]
    assert all(status.startswith("pushing ") for status in statuses[1:-1])
    stored = running.library.manifests.existing(parse_name(name)).read_bytes()
    assert registry.manifest("me/mine", "v2") == stored
    missing = running.post("/api/push", {"model": f"{registry.address}/me/none"})
    assert [line["status"] for line in missing.lines[:-1]] == [
        "retrieving manifest",
        "couldn't retrieve manifest",
    ]
    assert "not found" in missing.lines[-1]["error"]
    assert running.post("/api/push", {"model": f"{registry.address}/me/none", "stream": False}).status == 404


def make(running: Running, gguf: bytes, name: str) -> None:
    import hashlib

    digest = f"sha256:{hashlib.sha256(gguf).hexdigest()}"
    assert running.post(f"/api/blobs/{digest}", gguf).status in (200, 201)
    body = {"model": name, "files": {"a.gguf": digest}, "stream": False}
    assert running.post("/api/create", body).status == 200


PRIVATE = [
    *("169.254.169.254/library/x", "127.0.0.1:22/a/b", "localhost/a/b", "localhost:5000/a/b", "10.0.0.1/a/b"),
    *("192.168.0.1/a/b", "0.0.0.0/a/b", "a.localhost/b/c"),
]


@pytest.mark.parametrize("name", PRIVATE)
def test_private_addresses_are_refused_whatever_the_caller_says(
    server: Serve, gguf: bytes, name: str, library: Library
) -> None:
    """A16, A27: before anything is sent, and before anything is connected to."""
    running = server()
    for insecure in (False, True):
        for stream in (False, True):
            body = {"model": name, "insecure": insecure, "stream": stream}
            assert running.post("/api/pull", body).status == 403
            assert running.post("/api/push", body).status == 403
    reply = running.post("/api/create", {"model": "x", "from": name, "stream": False})
    assert reply.status == 403
    assert running.post("/api/show", {"model": name}).status == 404
    assert running.get("/api/tags").json == {"models": []}


def test_nothing_is_connected_to_that_is_refused(server: Serve) -> None:
    running = server()
    with socket.create_server(("127.0.0.1", 0)) as canary:
        name = f"127.0.0.1:{canary.getsockname()[1]}/a/b"
        for path in ("/api/pull", "/api/push"):
            for insecure in (False, True):
                assert running.post(path, {"model": name, "insecure": insecure}).status == 403
        canary.settimeout(0.2)
        with pytest.raises(TimeoutError):
            canary.accept()


def test_plain_http_needs_the_configuration(server: Serve) -> None:
    """A26"""
    reply = server().post("/api/pull", {"model": "http://example.com/a/b", "stream": False})
    assert reply.status == 403
    assert "insecure protocol http" in reply.error


def test_pushes_go_to_configured_registries_only(server: Serve, gguf: bytes) -> None:
    """A27"""
    running = server()
    make(running, gguf, "evil.example/a/b")
    reply = running.post("/api/push", {"model": "evil.example/a/b", "stream": False})
    assert reply.status == 403
    assert '[registries."evil.example"]' in reply.error
    assert running.post("/api/push", {"model": "pypi://x", "stream": False}).status == 400


def test_a_broken_configuration_is_told_without_its_place(server: Serve, tmp_path: Path) -> None:
    running = server()
    (tmp_path / "config.toml").write_text("[registries")
    reply = running.post("/api/pull", {"model": "x", "stream": False})
    assert reply.status == 400
    assert str(tmp_path) not in reply.error


@pytest.mark.parametrize("speaks", [False, True])
def test_a_pull_ends_with_its_client(server: Serve, tmp_path: Path, speaks: bool) -> None:
    """A19, INV-TIME: a registry that never ends its answer keeps nothing busy once the client is gone."""
    running = server()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        configure(tmp_path, address)
        with running.connection() as connection:
            connection.request("POST", "/api/pull", f'{{"model":"{address}/a/b"}}')
            with silent.accept()[0] as accepted:
                accepted.settimeout(TIMEOUT)
                assert accepted.recv(65536).startswith(b"GET /v2/a/b/manifests/latest ")
                if speaks:
                    accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
                assert running.state.operations.running == 1
                connection.close()
                assert accepted.recv(65536) == b""  # the server has hung up
        until_idle(running)


def test_a_pull_that_waits_to_try_again_ends_too(server: Serve, tmp_path: Path) -> None:
    running = server()
    with socket.create_server(("127.0.0.1", 0)) as busy:
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        configure(tmp_path, address)
        with running.connection() as connection:
            connection.request("POST", "/api/pull", f'{{"model":"{address}/a/b"}}')
            with busy.accept()[0] as accepted:
                accepted.settimeout(TIMEOUT)
                accepted.recv(65536)
                lines = ("HTTP/1.1 503 Busy", "Retry-After: 60", "Content-Length: 0", "Connection: close")
                accepted.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
                assert accepted.recv(65536) == b""  # it has read that, and waits
        until_idle(running)


def until_idle(running: Running) -> None:
    for _ in range(500):
        if running.state.operations.running == 0 and not names_of_operations():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it goes on")


def names_of_operations() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "operation"]


def test_transfers_are_limited(server: Serve, tmp_path: Path) -> None:
    running = server(max_transfers=1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        configure(tmp_path, address)
        with running.connection() as connection:
            connection.request("POST", "/api/pull", f'{{"model":"{address}/a/b"}}')
            with silent.accept()[0]:
                reply = running.post("/api/pull", {"model": f"{address}/a/c"})
                assert (reply.status, reply.headers["retry-after"]) == (503, "10")
                connection.close()
        until_idle(running)
