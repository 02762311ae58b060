"""`puna serve` as a process: its start, its line, its signals, its end."""

import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.registry.certificates import self_signed

from puna.store.library import Library

START = "Puna is listening on "


@dataclass(frozen=True, slots=True)
class Served:
    """A running `puna serve`."""

    process: subprocess.Popen[str]
    url: str

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.partition("://")[2].rpartition(":")
        return host, int(port)

    def end(self) -> tuple[int, str]:
        """The exit status and the log, once it has ended."""
        _, log = self.process.communicate(timeout=30)
        return self.process.returncode, log


@contextmanager
def served(tmp_path: Path, *flags: str, **environment: str) -> Iterator[Served]:
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("PUNA_", "OLLAMA_"))
    }
    variables |= {"HOME": str(tmp_path), "PUNA_MODELS": str(tmp_path / "models"), **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "puna", "serve", "--host", "127.0.0.1:0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        line = process.stdout.readline()
        assert line.startswith(START), process.stderr.read()
        yield Served(process, line.removeprefix(START).strip())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def refused(tmp_path: Path, *flags: str, **environment: str) -> str:
    """The one line that a `puna serve` ends with."""
    done = subprocess.run(
        [sys.executable, "-m", "puna", "start", *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(tmp_path), **environment},
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as reply:
        content: bytes = reply.read()
        return content


def half_an_upload(address: tuple[str, int], content: bytes) -> socket.socket:
    """A request that runs until the second half is sent."""
    connection = socket.create_connection(address, timeout=30)
    digest = hashlib.sha256(content).hexdigest()
    head = f"POST /api/blobs/sha256:{digest} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode())
    assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
    connection.sendall(content[: len(content) // 2])
    return connection


def test_it_serves_and_ends_at_sigterm(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        assert get(running.url) == b"Ollama is running"
        assert json.loads(get(running.url + "/api/tags")) == {"models": []}
        running.process.send_signal(signal.SIGTERM)
        status, log = running.end()
    assert status == 0
    assert "msg=request" in log and "path=/api/tags" in log and "Traceback" not in log


def test_what_runs_is_finished_and_nothing_new_begun(tmp_path: Path) -> None:
    content = b"x" * 1000
    with served(tmp_path) as running, half_an_upload(running.address, content) as connection:
        running.process.send_signal(signal.SIGTERM)
        until_refused(running.address)
        connection.sendall(content[len(content) // 2 :])
        assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")
        assert running.end()[0] == 0
    assert (tmp_path / "models" / "blobs" / f"sha256-{hashlib.sha256(content).hexdigest()}").exists()


def until_refused(address: tuple[str, int]) -> None:
    for _ in range(1000):
        try:
            socket.create_connection(address, timeout=30).close()
        except ConnectionError:
            return
        time.sleep(0.01)
    raise AssertionError("it still takes connections")


def test_what_takes_too_long_is_cut_off(tmp_path: Path) -> None:
    with (
        served(tmp_path, "--shutdown-grace", "1s") as running,
        half_an_upload(running.address, b"x" * 1000) as connection,
    ):
        running.process.send_signal(signal.SIGINT)
        assert connection.recv(65536).startswith(b"HTTP/1.1 503 ")
        status, log = running.end()
    assert status == 0
    assert "Traceback" not in log, log
    assert [*(tmp_path / "models").rglob("*.tmp")] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once(tmp_path: Path, number: signal.Signals) -> None:
    with (
        served(tmp_path, "--shutdown-grace", "10m") as running,
        half_an_upload(running.address, b"x" * 1000),
    ):
        running.process.send_signal(signal.SIGTERM)
        until_refused(running.address)
        running.process.send_signal(number)
        assert running.end()[0] == 128 + number


def test_unused_files_are_deleted_at_the_start(tmp_path: Path) -> None:
    library = Library(tmp_path / "models")
    with library.session() as session:
        old = session.add("x", [b"old"]).content
        new = session.add("x", [b"new"]).content
    os.utime(library.blobs.path(old), (1, 1))
    with served(tmp_path, OLLAMA_NOPRUNE="1") as running:
        get(running.url)
    assert {*library.blobs} == {old, new}
    with served(tmp_path) as running:
        for _ in range(1000):
            if {*library.blobs} == {new}:
                break
            threading.Event().wait(0.01)
    assert {*library.blobs} == {new}


def test_an_address_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = refused(tmp_path, "--host", f"127.0.0.1:{taken.getsockname()[1]}")
    assert line.startswith("Error: cannot listen on 127.0.0.1:")
    assert "the address is in use" in line and "--host" in line


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--host", "192.0.2.1:0", "--insecure-no-keys"), "it is no address of this machine"),
        (("--host", "no.such.host.invalid"), "set API keys"),
        (("--host", "0.0.0.0:0"), "set API keys (PUNA_API_KEYS, or --api-key-file)"),
        (("--host", "ftp://x"), "--host: 'ftp://x' has a scheme"),
        (("--api-key-file", "/no/such"), "the file of API keys /no/such: No such file"),
        (("--tls-cert", "/no/such"), "TLS needs a certificate and its key"),
        (("--tls-cert", "/no/such", "--tls-key", "/no/such", "--host", "127.0.0.1:0"), "TLS certificate"),
        (("--shutdown-grace", "soon"), "--shutdown-grace: 'soon' is no duration"),
    ],
)
def test_what_cannot_be_is_one_clear_line(tmp_path: Path, flags: tuple[str, ...], text: str) -> None:
    assert text in refused(tmp_path, *flags)


def test_keys_open_a_network(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-many-letters-1\n")
    with served(tmp_path, "--host", "0.0.0.0:0", "--api-key-file", str(keys)) as running:
        address = f"http://127.0.0.1:{running.address[1]}"
        headers = {"Authorization": "Bearer a-key-of-many-letters-1"}
        assert get(address + "/healthz")
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as reply:
            assert reply.read() == b"Ollama is running"
        with pytest.raises(urllib.error.HTTPError, match="401") as caught:
            get(address)
        caught.value.close()


def test_tls(tmp_path: Path) -> None:
    identity = self_signed("localhost")
    identity.server_context(tmp_path)
    (both,) = tmp_path.glob("identity-*.pem")
    with served(tmp_path, "--tls-cert", str(both), "--tls-key", str(both)) as running:
        assert running.url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cadata=identity.pem.decode())
        url = running.url.replace("127.0.0.1", "localhost") + "/api/version"
        with urllib.request.urlopen(url, context=context) as reply:
            assert b"version" in reply.read()


def test_the_start_imports_what_it_needs_only() -> None:
    """Jinja, tokenizers, the registry's client and the compute half are not needed to answer."""
    code = (
        "import sys, puna.server.start, puna.options, puna.store.library, pathlib\n"
        "from puna.server.app import build_app, build_state\n"
        "state = build_state(puna.options.ServerSettings(), puna.store.library.Library(pathlib.Path('x')))\n"
        "build_app(state)\n"
        "print(*sys.modules)"
    )
    loaded = {
        *subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    }
    unwanted = {
        *(
            "numpy",
            "ctypes",
            "tokenizers",
            "sentencepiece",
            "jinja2",
            "cryptography",
            "truststore",
            "llguidance",
        ),
        *(
            "prometheus_client",
            "puna.ggml",
            "puna.ml",
            "puna.engine.loop",
            "puna.template.jinja",
            "puna.create",
        ),
        *("puna.registry.client", "puna.registry.http", "rich", "httpx2", "websockets", "multipart"),
    }
    assert unwanted & loaded == set()
