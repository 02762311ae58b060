"""What the processes of a server open, load and run (H02 to H05).

The server runs with a hook that writes down what Python's auditing tells (PEP 578), in it and in its runners.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.probes import children
from tests.served import Served, serving

from puna.ggml.locate import candidates

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")

HOOK = """
import os, sys

_FILE = os.open({file!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
_WATCHED = {{"pickle.find_class", "marshal.loads", "exec", "compile", "ctypes.dlopen"}}
_IMPORTS = "<frozen importlib._bootstrap"

def _hook(event, arguments):
    if event not in _WATCHED:
        return
    frame = sys._getframe(1)
    place = frame.f_code.co_filename
    while frame is not None and event != "ctypes.dlopen":
        if frame.f_code.co_filename.startswith(_IMPORTS):
            return
        frame = frame.f_back
    named = str(arguments[0]) if event in ("ctypes.dlopen", "pickle.find_class") else ""
    os.write(_FILE, "\\t".join((event, place, named)).encode() + b"\\n")

sys.addaudithook(_hook)
"""


@dataclass(frozen=True, slots=True)
class Watched:
    """A server that has answered, and what was written down of it and its runner.

    Attributes:
        events: the event, the file whose code caused it, and what was loaded.
        maps: the files that the runner has in its memory.
        strangers: folders with libraries that are not to be loaded.
    """

    server: Served
    runner: int
    events: set[tuple[str, str, str]]
    maps: set[Path]
    strangers: tuple[Path, ...]


@pytest.fixture(scope="module")
def watched(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("processes")
    home, here, linked, world = (folder / name for name in ("home", "here", "linked", "world"))
    store = folder / "models"
    shutil.copytree(served.store, store)
    strangers = (home, here, linked, world, store, store / "blobs")
    for stranger in strangers:
        stranger.mkdir(exist_ok=True)
        copy_ggml(stranger)
    world.chmod(0o777)
    hook = folder / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK.format(file=str(folder / "events")))
    variables = {
        "PYTHONPATH": f"{hook}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep),
        "LD_LIBRARY_PATH": str(linked),
        "GGML_BACKEND_PATH": str(world / "libggml-cpu.so"),
        "GGML_BACKEND_DIR": str(world),
        "GGML_RPC_SERVERS": "127.0.0.1:50052",
        "LLAMA_ARG_RPC": "127.0.0.1:50052",
    }
    before = Path.cwd()
    os.chdir(here)
    try:
        with serving(folder, store, **variables) as server:
            exercise(server)
            (runner,) = children(server.pid)
            lines = (folder / "events").read_text().splitlines()
            events = {(event, file, what) for event, file, what in (line.split("\t") for line in lines)}
            yield Watched(server, runner, events, mapped(runner), strangers)
    finally:
        os.chdir(before)


def copy_ggml(folder: Path) -> None:
    """Libraries that would work, and one that would not, under the names that ggml looks for."""
    for file in candidates(None)[0].folder.glob("libggml*"):
        shutil.copy2(file, folder)
    (folder / "libggml-rpc.so").write_bytes(b"no library")


def exercise(server: Served) -> None:
    """One request of each kind, the last two with the same model."""
    hi = [{"role": "user", "content": "hi"}]
    assert server.post("/api/embed", {"model": "vectors", "input": "hi", "keep_alive": 0}).status == 200
    for _ in range(2):
        reply = server.post("/api/generate", {"model": "said", "prompt": "hi", "stream": False})
        assert reply.json["response"] == "onetwothreefour"
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    body = {"model": "said", "messages": hi, "format": schema, "stream": False}
    assert server.post("/api/chat", {**body, "options": {"num_predict": 4}}).status == 200
    assert server.post("/api/show", {"model": "said"}).status == 200
    assert server.get("/api/tags").status == 200


def mapped(pid: int) -> set[Path]:
    """The files that a process has in its memory."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {Path(line.split(maxsplit=5)[5]) for line in lines if "/" in line}


def sockets(pid: int) -> set[str]:
    """The inodes of the sockets that a process holds."""
    links = (os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir())
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def connected(pid: int) -> set[str]:
    """The inodes of sockets of TCP."""
    tables = (Path(f"/proc/{pid}/net/{table}").read_text() for table in ("tcp", "tcp6"))
    return {row.split()[9] for table in tables for row in table.splitlines()[1:]}


def listening(pid: int) -> set[str]:
    """The inodes of what listens: TCP, UDP that is bound, and sockets of the system's own with a name."""
    found = set()
    for table in ("tcp", "tcp6"):
        rows = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        found |= {row.split()[9] for row in rows if row.split()[3] == "0A"}
    for table in ("udp", "udp6"):
        rows = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        found |= {row.split()[9] for row in rows}
    rows = Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]
    return found | {row.split()[6] for row in rows if row.split()[3] == "00010000" or len(row.split()) > 7}


def test_nothing_listens_but_the_server_at_its_port(watched: Watched) -> None:
    """H02, H03: ggml's own client of RPC servers may be there, but no server of it, and it asks nobody."""
    assert not sockets(watched.runner) & connected(watched.runner)
    server = watched.server
    assert not sockets(watched.runner) & listening(watched.runner)
    (own,) = sockets(server.pid) & listening(server.pid)
    rows = [row.split() for row in Path(f"/proc/{server.pid}/net/tcp").read_text().splitlines()[1:]]
    (address,) = (row[1] for row in rows if row[9] == own)
    host, port = address.split(":")
    assert socket.inet_ntoa(bytes.fromhex(host)[::-1]) == "127.0.0.1"
    assert int(port, 16) == server.address[1]


def test_no_objects_are_unpickled_and_no_text_is_run(watched: Watched) -> None:
    """H04: besides what Python's own modules make of their own texts, such as data classes."""
    library = Path(os.__file__).parent
    own = {
        str(library / name) for name in ("dataclasses.py", "collections/__init__.py", "runpy.py", "enum.py")
    }
    found = [event for event in watched.events if event[0] != "ctypes.dlopen"]
    assert [event for event in found if event[0] in ("pickle.find_class",)] == []
    assert [event for event in found if event[1] not in own and not event[1].startswith("<frozen ")] == []


def test_libraries_come_from_the_installed_package_alone(watched: Watched) -> None:
    """H04, H05: by absolute path, whatever the environment and the folders around say."""
    installed = candidates(None)[0].folder
    opened = {
        Path(named) for event, _, named in watched.events if event == "ctypes.dlopen" and named != "None"
    }
    ggml = {path for path in opened if "ggml" in path.name}
    assert ggml and {path.parent for path in ggml} == {installed}
    assert all(path.is_absolute() for path in ggml)
    held = {path for path in watched.maps if "ggml" in path.name and path.suffix != ".gguf"}
    assert held and {path.resolve().parent for path in held} == {installed.resolve()}
    for stranger in watched.strangers:
        blobs = {path for path in watched.maps if stranger in path.parents}
        assert all(path.name.startswith("sha256-") for path in blobs)


def test_the_server_itself_loads_no_compute_library(watched: Watched) -> None:
    """H05"""
    assert not any("ggml" in path.name for path in mapped(watched.server.pid))


def test_the_fakes_would_have_worked(watched: Watched) -> None:
    """A test of the test: a program that does look there does load them."""
    code = "import ctypes; ctypes.CDLL('libggml-base.so'); print(open('/proc/self/maps').read())"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(watched.strangers[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert str(watched.strangers[2] / "libggml-base.so") in done.stdout
