"""`puna serve` in a process of its own, and a plain client: nothing that would mend what it gets."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        """The documents of a stream."""
        assert self.headers["content-type"] == "application/x-ndjson"
        assert self.body.endswith(b"\n")
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def error(self) -> str:
        assert {*self.json} == {"error"}, self.json
        return str(self.json["error"])


@dataclass(frozen=True, slots=True)
class Served:
    """A running server."""

    url: str
    process: "subprocess.Popen[str]"
    store: Path
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None and parts.port is not None
        return parts.hostname, parts.port

    @contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=TIMEOUT)
        try:
            yield connection
        finally:
            connection.close()

    def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        with self.connection() as connection:
            connection.request(method, path, content, {**self.headers, **(headers or {})})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, found, response.read())

    def post(self, path: str, body: object = None, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", path, body, named)

    def get(self, path: str) -> Reply:
        return self.ask("GET", path)

    @contextmanager
    def stream(self, path: str, body: object, **headers: str) -> Iterator[http.client.HTTPResponse]:
        """An answer as it comes; at the end the connection is cut."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with self.connection() as connection:
            connection.request("POST", path, json.dumps(body).encode(), {**self.headers, **named})
            yield connection.getresponse()


@contextmanager
def serving(folder: Path, store: Path, **variables: str) -> Iterator[Served]:
    """A server of this store, with these of its settings in the environment.

    Args:
        folder: for its home and its log.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PUNA_", "OLLAMA_"))}
    home = folder / "home"
    home.mkdir(exist_ok=True)
    environment = {**kept, "HOME": str(home), "PUNA_MODELS": str(store), **variables}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "puna", "serve", "--host", "127.0.0.1:0"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://" in line, (folder / "server.log").read_text()
        yield Served(line.split()[-1], process, store)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
            process.wait()
