"""Who may ask: hosts, origins, keys and their scopes, and what of a request is repeated."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any

import pytest
from tests.served import Reply
from tests.server.conftest import Running, Serve

from puna.errors import InvalidOption
from puna.options import INFERENCE, MANAGE, ApiKey, ServerSettings, api_key
from puna.server.middleware import keys
from puna.server.middleware.hosts import host_of, is_loopback
from puna.server.middleware.origins import origin_rules
from puna.server.run import check_exposure
from puna.variables import Endpoint

SECRET = "the-key-for-everything-0123"
ASKING = "the-key-for-asking-only-4567"
KEYS = (api_key(SECRET, "all"), api_key(ASKING, "asking", frozenset({INFERENCE})))

# Every route, with what its key must open.
ROUTES = [
    *(("GET", path, "") for path in ("/", "/api/version", "/api/status", "/metrics")),
    ("GET", "/api/tags", INFERENCE),
    ("POST", "/api/show", INFERENCE),
    *(("POST", path, MANAGE) for path in ("/api/create", "/api/copy", "/api/pull", "/api/push")),
    ("DELETE", "/api/delete", MANAGE),
    ("HEAD", "/api/blobs/sha256:" + "0" * 64, MANAGE),
    ("POST", "/api/blobs/sha256:" + "0" * 64, MANAGE),
    *(("POST", f"/api/{path}", INFERENCE) for path in ("generate", "chat", "embed", "embeddings")),
    *(("POST", f"/api/{path}", INFERENCE) for path in ("tokenize", "detokenize", "rerank")),
    ("GET", "/api/ps", INFERENCE),
    ("DELETE", "/api/requests/none", INFERENCE),
    *(("POST", f"/v1/{path}", INFERENCE) for path in ("chat/completions", "completions", "embeddings")),
    *(("POST", f"/v1/{path}", INFERENCE) for path in ("rerank", "responses", "responses/input_tokens")),
    *(("GET", f"/v1/{path}", INFERENCE) for path in ("models", "models/none", "responses/none")),
    ("DELETE", "/v1/responses/none", INFERENCE),
    ("GET", "/v1/responses/none/input_items", INFERENCE),
    *(("POST", f"/v1/{path}", INFERENCE) for path in ("chat/completions", "completions", "embeddings")),
    *(("POST", f"/v1/{path}", INFERENCE) for path in ("rerank", "messages", "messages/count_tokens")),
    *(("GET", path, INFERENCE) for path in ("/v1/models", "/v1/models/none")),
    *(("POST", path, INFERENCE) for path in ("/v1/responses", "/v1/responses/input_tokens")),
    *(("GET", f"/v1/responses/none{end}", INFERENCE) for end in ("", "/input_items")),
    ("DELETE", "/v1/responses/none", INFERENCE),
]


def text_of(reply: Reply) -> str:
    """The text of an error in any dialect."""
    error = reply.json["error"]
    return str(error if isinstance(error, str) else error["message"])


def with_host(running: Running, host: str | None, path: str = "/api/version", version: str = "1.1") -> bytes:
    line = f"Host: {host}\r\n" if host is not None else ""
    return running.raw(f"GET {path} HTTP/{version}\r\n{line}Connection: close\r\n\r\n".encode())


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


FOREIGN = [
    *("evil.example", "evil.example:11434", "127.0.0.1.evil.example", "localhost.evil.example", "x.local"),
    *("x.internal", "a.localhost", "2130706433", "0x7f.1", "127.1", "localhost.localdomain"),
]
MALFORMED = [
    *("", "[::1]evil", "127.0.0.1:99999", "127.0.0.1:x", "a@b", "x/?", "x/#", "x/healthz?", "a b", "[::1"),
    *("::1", "[1.2.3.4]", "[zz]", "ex\u00e4mple", "localhost:1:2", "http://localhost"),
]


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.9.9.9:1", "[::1]:11434", "0.0.0.0"]
)
def test_the_machines_own_hosts_are_allowed(server: Serve, host: str) -> None:
    assert status_of(with_host(server(), host)) == 200


def test_foreign_and_malformed_hosts_are_refused(server: Serve) -> None:
    """D01, D06"""
    running = server()
    for host in (*FOREIGN, "192.168.1.5", "8.8.8.8:11434"):
        assert status_of(with_host(running, host)) == 403, host
    for host in MALFORMED:
        assert status_of(with_host(running, host)) == 400, host
    assert status_of(with_host(running, None)) == 400
    assert status_of(with_host(running, None, version="1.0")) == 400
    twice = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert status_of(running.raw(twice)) == 400
    absolute = b"GET http://evil.example/api/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert status_of(running.raw(absolute)) == 400


def test_every_route_checks_the_host(server: Serve) -> None:
    running = server(metrics=True)
    for method, path, _ in [*ROUTES, ("GET", "/healthz", ""), ("GET", "/readyz", ""), ("OPTIONS", "/", "")]:
        assert running.ask(method, path, None, {"Host": "evil.example"}).status == 403, path


def test_hosts_of_a_server_on_a_network(server: Serve) -> None:
    running = server(host="0.0.0.0", api_keys=KEYS, hosts=("llm.example.com",))
    for host in ("LLM.example.com:443", "192.168.1.5", "localhost", "[2001:db8::1]"):
        assert status_of(with_host(running, host, "/healthz")) == 200, host
    for host in FOREIGN:
        assert status_of(with_host(running, host, "/healthz")) == 403, host
    assert status_of(with_host(server(hosts=("*",)), "anything.example")) == 200


def test_a_host_is_taken_apart_strictly() -> None:
    assert host_of("[0:0::1]:1") == "::1"
    assert host_of("Example.COM.") == "example.com"
    assert host_of("a" * 254) is None
    assert [is_loopback(host) for host in ("127.0.0.2", "::1", "localhost", "", "0.0.0.0", "::", "host")] == [
        *(True, True, True, False, False, False, False)
    ]


FETCH = {"Content-Type": "text/plain"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://evil.example/http://localhost"},
        {"Origin": "http://127.0.0.1.evil.example:80"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_pages_of_other_sites_are_refused_before_the_body_is_read(
    server: Serve, headers: Mapping[str, str]
) -> None:
    """D02"""
    running = server()
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**headers, **FETCH}.items())
    # The body never comes.
    request = f"POST /api/pull HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Length: 1000\r\n\r\n"
    with running.socket() as connection:
        connection.sendall(request.encode())
        answer = connection.recv(65536)
    assert status_of(answer) == 403
    assert b"access-control" not in answer.lower()
    for method in ("GET", "DELETE", "OPTIONS"):
        assert running.ask(method, "/api/delete", None, headers).status == 403


def test_preflights(server: Serve) -> None:
    running = server(origins=("https://*.example.com", "https://chat.example.org/"))
    ask = {"Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "authorization"}
    for origin in (
        *(
            "http://localhost",
            "http://localhost:3000",
            "https://127.0.0.1:8443",
            "app://x",
            "tauri://localhost",
        ),
        *(
            "vscode-webview://abc",
            "chrome-extension://abcdef",
            "https://a.example.com",
            "https://chat.example.org",
        ),
    ):
        reply = running.ask("OPTIONS", "/api/delete", None, {"Origin": origin, **ask})
        assert reply.status == 204
        assert reply.headers["access-control-allow-origin"] == origin
        assert "DELETE" in reply.headers["access-control-allow-methods"]
        assert "Authorization" in reply.headers["access-control-allow-headers"]
        assert reply.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in reply.headers
    for origin in ("https://a.example.com.evil.net", "https://example.org", "https://a.b/.example.com"):
        assert running.ask("OPTIONS", "/api/delete", None, {"Origin": origin, **ask}).status == 403
    plain = running.ask("OPTIONS", "/api/tags")
    assert (plain.status, plain.body) == (204, b"")


def test_an_allowed_page_gets_its_answer(server: Serve) -> None:
    reply = server().get("/api/version", {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "cross-site"})
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert reply.headers["access-control-expose-headers"] == "X-Request-Id"


def test_the_servers_own_pages_are_of_its_origin(server: Serve) -> None:
    running = server(host="0.0.0.0", api_keys=KEYS)
    own = {"Host": "10.0.0.9:1234", "Origin": "http://10.0.0.9:1234"}
    assert running.get("/healthz", own).status == 200
    assert running.get("/healthz", {**own, "Origin": "http://10.0.0.9"}).status == 403


def test_every_origin_never_comes_with_credentials(server: Serve) -> None:
    """D04"""
    running = server(origins=("*",), api_keys=KEYS)
    reply = running.get(
        "/api/version", {"Origin": "https://any.example", "Authorization": f"Bearer {SECRET}"}
    )
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in reply.headers
    assert running.get("/api/version", {"Origin": "https://any.example"}).status == 401


def test_two_origins_are_none(server: Serve) -> None:
    twice = b"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nOrigin: https://e.net\r\n\r\n"
    assert status_of(server().raw(twice)) == 400


def test_patterns_of_origins_do_not_cross_slashes() -> None:
    rules = origin_rules(["http://*"])
    assert rules.allow("http://anything:1", "h")
    assert not rules.allow("http://anything/else", "h")
    assert not origin_rules([]).allow("http://a.localhost", "h")


@pytest.fixture
def guarded(server: Serve) -> Running:
    return server(api_keys=KEYS, metrics=True)


WRONG: list[dict[str, str]] = [
    {},
    {"Authorization": "Bearer wrong-but-long-enough-key"},
    {"Authorization": f"Bearer {SECRET[:-1]}"},
    {"Authorization": f"Bearer {SECRET}x"},
    {"Authorization": f"Basic {SECRET}"},
    {"Authorization": SECRET},
    {"Authorization": ""},
    {"Authorization": "Bearer "},
    {"x-api-key": ""},
    {"x-api-key": SECRET.upper()},
    {"Authorization": f"Bearer {SECRET}", "x-api-key": ASKING},
    {"Authorization": "Basic x", "x-api-key": SECRET},
    {"Cookie": f"key={SECRET}"},
]


@pytest.mark.parametrize("headers", WRONG)
def test_no_route_answers_without_a_right_key(guarded: Running, headers: dict[str, str]) -> None:
    """D05"""
    for method, path, _ in [*ROUTES, ("GET", "/nope", ""), ("GET", f"/api/tags?key={SECRET}", "")]:
        reply = guarded.ask(method, path, None, headers)
        assert reply.status == 401, path
        assert reply.headers["www-authenticate"] == 'Bearer realm="puna"'
        if method != "HEAD":
            assert text_of(reply) == "unauthorized: a valid API key is needed"


def test_two_authorizations_are_none(guarded: Running) -> None:
    lines = f"Authorization: Bearer {SECRET}\r\nAuthorization: Bearer {ASKING}\r\n"
    assert status_of(guarded.raw(f"GET / HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode())) == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {SECRET}"},
        {"Authorization": f"bearer {SECRET}"},
        {"x-api-key": SECRET},
        {"Authorization": f"Bearer {SECRET}", "X-API-Key": SECRET},
    ],
)
def test_a_right_key_opens_every_route(guarded: Running, headers: dict[str, str]) -> None:
    for method, path, _ in ROUTES:
        assert guarded.ask(method, path, None, headers).status not in (401, 403), path


def test_scopes(guarded: Running) -> None:
    """D05, G07: asking is not managing, and whether a blob is there is part of managing."""
    for method, path, opens in ROUTES:
        reply = guarded.ask(method, path, None, {"x-api-key": ASKING})
        assert (reply.status == 403) == (opens == MANAGE), path
        if reply.status == 403 and method != "HEAD":
            assert text_of(reply) == "this API key does not have the scope 'manage' that this needs"


def test_every_route_is_in_the_table_above(guarded: Running) -> None:
    app: Any = guarded.server.config.app
    found = {route.path.replace(":path", "") for route in app.routes}
    listed = {re.sub(r"sha256:0+", "{digest}", path) for _, path, _ in ROUTES}
    listed = {path.replace("/none", "/{id}") for path in listed}
    assert found - {"/healthz", "/readyz"} == listed


def test_health_needs_no_key(guarded: Running) -> None:
    assert guarded.get("/healthz").json == {"status": "ok"}
    assert guarded.get("/readyz").json == {"status": "ok"}


@pytest.mark.parametrize(
    "path",
    [
        "//healthz",
        "/healthz/../api/tags",
        "/healthz?x=/api/tags",
        "/healthz%2f..%2fapi%2ftags",
        "/api/tags#/healthz",
    ],
)
def test_the_open_paths_open_nothing_else(guarded: Running, path: str) -> None:
    """D06"""
    prefix = "GET {} HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Prefix: /healthz\r\nConnection: close\r\n\r\n"
    answer = guarded.raw(prefix.format(path).encode())
    assert b'"models"' not in answer
    assert status_of(answer) in ((200,) if path.startswith("/healthz?") else (400, 401))


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """D08: whatever is shown, every digest is compared, by the function that takes the same time for all."""
    compared: list[tuple[bytes, bytes]] = []
    genuine = hmac.compare_digest

    def compare(known: bytes, shown: bytes) -> bool:
        compared.append((known, shown))
        return genuine(known, shown)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for secret in (SECRET, ASKING, "wrong", ""):
        compared.clear()
        keys.find_key(KEYS, [secret])
        shown = hashlib.sha256(secret.encode()).digest()
        assert compared == [(key.digest, shown) for key in KEYS]


def test_a_key_may_be_limited(server: Serve) -> None:
    few = ApiKey("few", api_key(SECRET, "few").digest, max_concurrent=1)
    running = server(api_keys=(few,))
    headers = {"x-api-key": SECRET}
    digest = hashlib.sha256(b"ab").hexdigest()
    with running.connection() as connection:
        connection.putrequest("POST", f"/api/blobs/sha256:{digest}")
        connection.putheader("x-api-key", SECRET)
        connection.putheader("Content-Length", "2")
        connection.endheaders(b"a")
        reply = until_busy(running, headers)
        assert reply.headers["retry-after"] == "1"
        connection.send(b"b")
        assert connection.getresponse().status == 201
    assert running.get("/api/version", headers).status == 200


def until_busy(running: Running, headers: Mapping[str, str]) -> Reply:
    """The refusal that comes once the other request has been taken up."""
    for _ in range(1000):
        reply = running.get("/api/version", headers)
        if reply.status == 429:
            return reply
    raise AssertionError("the other request was never counted")


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "192.168.1.2", "example.com"])
def test_a_network_is_not_served_without_keys(host: str) -> None:
    settings = ServerSettings(listen=Endpoint(host=host))
    with pytest.raises(InvalidOption, match=r"PUNA_API_KEYS.*--insecure-no-keys"):
        check_exposure(settings)
    check_exposure(ServerSettings(listen=Endpoint(host=host), api_keys=KEYS))
    check_exposure(ServerSettings(listen=Endpoint(host=host), insecure_no_keys=True))


def test_loopback_is_served_without_keys() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        check_exposure(ServerSettings(listen=Endpoint(host=host)))


GENERATED = re.compile(r"[0-9a-f]{16}")


def test_request_ids(server: Serve) -> None:
    """D18"""
    running = server()
    assert running.get("/", {"X-Request-Id": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    for given in ("127.0.0.3:80", "../../x", "a" * 65, "x" * 20_000, "a b", "\u00e9", ""):
        answered = running.get("/", {"X-Request-Id": given}).headers["x-request-id"]
        assert GENERATED.fullmatch(answered)
    for reply in (
        running.get("/nope"),
        running.get("/", {"Host": "evil"}),
        running.get("/", {"Origin": "x"}),
    ):
        assert GENERATED.fullmatch(reply.headers["x-request-id"])
    log = running.log.getvalue()  # of answers long sent
    assert "request_id=abc-1.2_3" in log and "127.0.0.3:80" not in log
