"""A store on a full disk, and one that cannot be written: one clear error, and nothing is left behind."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.probes import wait_for
from tests.registry import docker_registry
from tests.registry.images import image
from tests.scripted_llama import START, write_scripted_llama
from tests.served import Reply, Served, serving
from tests.served_models import CHAT, add_model

from puna.store.library import Library

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root may mount file systems"
)

ROOM = 1 << 20
SHORT = {"model": "said", "prompt": "hi", "stream": False}


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[None]:
    """Something is mounted on the folder; skips the test where that is not allowed."""
    done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def with_a_model(store: Path) -> Path:
    """A store with the model `said`; it takes about a quarter of a megabyte."""
    path = write_scripted_llama(store.parent / "said.gguf", ("one", "two"))
    add_model(Library(store), "said", path, template=CHAT + START)
    path.unlink()
    return store


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Served]:
    """A server whose store is on a disk of a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with (
        mounted(disk, "-t", "tmpfs", "-o", f"size={ROOM}", "none"),
        serving(tmp_path, with_a_model(disk / "models"), PUNA_CONFIG=str(tmp_path / "config.toml")) as server,
    ):
        yield server


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Served]:
    """A server whose store nobody may write, root included."""
    store = with_a_model(tmp_path / "models")
    with (
        mounted(store, "--bind", "-o", "ro", str(store)),
        serving(tmp_path, store, PUNA_CONFIG=str(tmp_path / "config.toml")) as server,
    ):
        yield server


def files(folder: Path) -> dict[str, int]:
    """What is in a store, with sizes; notes on what was verified are no matter."""
    found = (path for path in folder.rglob("*") if path.is_file() and "puna" not in path.parts)
    return {str(path.relative_to(folder)): path.stat().st_size for path in found}


def answers(server: Served) -> bool:
    reply = server.post("/api/generate", SHORT)
    return reply.status == 200 and reply.json["response"] == "onetwo"


def blob(content: bytes) -> str:
    return f"/api/blobs/sha256:{hashlib.sha256(content).hexdigest()}"


def failed(reply: Reply) -> str:
    """The error of an answer, or the last line of a stream that was under way."""
    if reply.status == 200:
        return str(reply.lines[-1]["error"])
    return reply.error


def pulled(server: Served, folder: Path, content: bytes) -> Reply:
    """A pull of a model from a registry on this machine."""
    with docker_registry.anonymous(folder / "registry") as registry:
        registry.hold(image(b"GGUF" + content), "me/model", "v1")
        table = f'[registries."{registry.address}"]\nplain_http = true\nprivate = true\n'
        (folder / "config.toml").write_text(table)
        return server.post("/api/pull", {"model": f"{registry.address}/me/model:v1"})


def test_a_full_disk(small: Served, tmp_path: Path) -> None:
    before = files(small.store)
    content = os.urandom(2 * ROOM)
    declared = small.post(blob(content), content)
    assert (declared.status, declared.error[:21]) == (507, "not enough disk space")
    with small.connection() as connection:
        pieces = (content[start : start + 70_000] for start in range(0, len(content), 70_000))
        connection.request("POST", blob(content), pieces, encode_chunked=True)
        response = connection.getresponse()
        assert response.status == 507
        assert b"No space left on device" in response.read()
    wait_for(lambda: files(small.store) == before)
    assert "not enough disk space" in failed(pulled(small, tmp_path, content))
    assert files(small.store) == before
    (small.store.parent / "filler").write_bytes(bytes(room_of(small.store)))
    made = small.post("/api/create", {"model": "new", "from": "said", "system": "x" * 100_000})
    assert "No space left on device" in failed(made) or "not enough disk space" in failed(made)
    copied = small.post("/api/copy", {"source": "said", "destination": "other"})
    assert copied.status == 507
    assert files(small.store) == before
    assert answers(small)
    assert small.ask("DELETE", "/api/delete", {"model": "said"}).status == 200


def room_of(folder: Path) -> int:
    """Bytes that are free on its disk."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def test_a_store_that_cannot_be_written(read_only: Served, tmp_path: Path) -> None:
    server, text = read_only, "Read-only file system"
    assert answers(server)
    assert [model["name"] for model in server.get("/api/tags").json["models"]] == ["said:latest"]
    assert server.post("/api/show", {"model": "said"}).json["details"]["family"] == "llama"
    assert server.get("/readyz").status == 200
    refused: list[Reply] = [
        server.post("/api/create", {"model": "new", "from": "said", "system": "Be kind."}),
        server.post("/api/copy", {"source": "said", "destination": "other"}),
        server.ask("DELETE", "/api/delete", {"model": "said"}),
        server.post(blob(b"x"), b"x"),
        pulled(server, tmp_path, b"x" * 1000),
    ]
    for reply in refused:
        assert text in failed(reply)
        assert str(server.store) not in failed(reply) and "Traceback" not in failed(reply)
    assert answers(server)
    log = (tmp_path / "server.log").read_text()
    assert "Traceback" not in log
