"""What holds for every route there is: the table is the application's own, so no new route is forgotten."""

import http.client
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route
from tests.probes import exists
from tests.served import TIMEOUT, Reply, Served, serving

from puna.options import ServerSettings
from puna.server.app import build_app, build_state
from puna.store.library import Library

# Nothing of this machine, no address, nothing of the program.
SECRETS = re.compile(r"0x[0-9a-f]{6,}|/home/|/root|/tmp|Traceback|\.py\b|site-packages")
KEY = "a-key-of-many-letters-1"


def table() -> list[tuple[str, str]]:
    """Every method and path of the application; parameters have some value."""
    settings = ServerSettings(metrics=True)
    app = build_app(build_state(settings, Library(Path("/nowhere"))))
    found = []
    for route in app.routes:
        assert isinstance(route, Route)
        path = re.sub(r"\{[^}]*\}", "none", route.path)
        found += [(method, path) for method in sorted(route.methods or ())]
    return found


EVERY = table()
ASKED = [path for method, path in EVERY if method == "POST" and "blobs" not in path]


@pytest.fixture(scope="module")
def server(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with everything switched on, and a secret in its environment."""
    folder = tmp_path_factory.mktemp("routes")
    secrets = {"HF_TOKEN": "SECRET-TOKEN", "HTTPS_PROXY": "http://me:SECRET-WORD@127.0.0.1:9"}
    with serving(folder, served.store, PUNA_METRICS="1", PUNA_DEBUG="2", **secrets) as found:
        yield found
        assert exists(found.pid)
        log = (folder / "server.log").read_text()
        assert "SECRET-" not in log and "Traceback" not in log


def ask(server: Served, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> Reply:
    """The answer to exactly these headers."""
    connection = http.client.HTTPConnection(*server.address, timeout=TIMEOUT)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, found, response.read())
    finally:
        connection.close()


def test_there_is_a_table() -> None:
    assert len(EVERY) > 30 and ("POST", "/api/generate") in EVERY


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:11434"},
        {"Origin": "https://evil.example"},
        {"Origin": "null", "Content-Type": "text/plain"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
    ids=str,
)
def test_other_hosts_and_pages_get_nothing(server: Served, headers: dict[str, str]) -> None:
    """D01, D02"""
    for method, path in EVERY:
        reply = ask(server, method, path, headers, b'{"model": "said"}')
        assert reply.status == 403, (method, path)
        assert not any(name.startswith("access-control") for name in reply.headers)


def test_nothing_but_health_opens_without_a_key(served: Served, tmp_path: Path) -> None:
    """D05"""
    with serving(tmp_path, served.store, PUNA_METRICS="1", PUNA_API_KEYS=KEY) as server:
        for method, path in EVERY:
            without = ask(server, method, path, {})
            wrong = ask(server, method, f"{path}?key={KEY}", {"Authorization": f"Basic {KEY}"})
            expected = 200 if path in ("/healthz", "/readyz") else 401
            assert (without.status, wrong.status) == (expected, expected), (method, path)
            right = ask(server, method, path, {"Authorization": f"Bearer {KEY}"})
            assert right.status not in (401, 403), (method, path)


@pytest.mark.parametrize(
    "path",
    [
        *("/debug/pprof/", "/debug/vars", "/docs", "/redoc", "/slots", "/props", "/.env"),
        *("/lora-adapters", "/completion", "/infill", "/api/blobs", "/server-status", "/api/../api/tags"),
    ],
)
def test_there_is_nothing_else(server: Served, path: str) -> None:
    """D13"""
    assert server.get(path).status == 404


JUNK = [
    b"\xff\xfe",
    b"null",
    b"[" * 100_000,
    b'{"model": "said", "prompt": 1e999, "messages": NaN}',
    b'{"model": "../../etc/passwd"}',
    b'{"model": "said", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
    b'{"model": "said", "messages": [{"role": "user", "content": [{"type": "image", "source": "x"}]}]}',
    b'{"model": "said", "messages": [{"role": "user", "content": "a", "images": ["R0lGODlh"]}]}',
    b'{"model": "said", "prompt": "a", "images": ["/9j/4AAQ"], "input": [[1], "a"]}',
    b'{"model": "said", "input": {"a": "b"}, "max_tokens": "many", "query": [], "documents": 5}',
    b'{"model": "said", "prompt": "a", "format": {"pattern": "["}, "messages": [{"role": "\\ud800"}]}',
    b'{"model": "said", "context": [9999999], "tokens": [-1, 18446744073709551616], "prompt": "a"}',
]


@pytest.mark.parametrize("number", range(len(JUNK)))
def test_junk_is_refused_in_words_that_tell_nothing(server: Served, number: int) -> None:
    """D15: every route that takes a body, streaming and not."""
    # A name that could be a model's would have them ask a registry.
    paths = [
        path for path in ASKED if path not in ("/api/pull", "/api/push") or b'"said"' not in JUNK[number]
    ]
    for path in paths:
        for stream in (b"true", b"false"):
            body = JUNK[number].replace(b'{"model"', b'{"stream": %s, "max_tokens": 2, "model"' % stream, 1)
            reply = server.post(path, body)
            assert reply.status < 500, (path, reply.body)
            if reply.status >= 400:
                assert "error" in reply.json
                assert not SECRETS.search(reply.body.decode()), (path, reply.body)
    assert server.get("/api/version").status == 200


@pytest.mark.parametrize("given", ["127.0.0.3:80", "../../x", "x" * 20_000, "a\tb"])
def test_a_request_id_is_a_name_and_nothing_else(server: Served, given: str) -> None:
    """D18: who uses another one's id gets an answer of its own."""
    for method, path in EVERY:
        shown = ask(server, method, path, {"X-Request-Id": given}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{16}", shown), (method, path)
    body: dict[str, Any] = {"model": "said", "prompt": "hi", "stream": False}
    same = [server.post("/api/generate", body, X_Request_Id="same").json["response"] for _ in range(2)]
    assert same == ["onetwothreefour"] * 2
