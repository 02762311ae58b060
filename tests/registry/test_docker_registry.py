"""The real registries that other tests talk to: they hold what is pushed and ask for what they should."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from tests.registry import docker_registry
from tests.registry.docker_registry import DockerRegistry
from tests.registry.images import image
from tests.registry.token_issuer import SERVICE, Account, Grant, TokenIssuer, TokenRequest, serving

ALL = frozenset({"pull", "push"})
BLOB = b"a layer of the tests"
DIGEST = "sha256:" + hashlib.sha256(BLOB).hexdigest()


def ask(
    method: str, url: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in lower case, and body."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, {k.lower(): v for k, v in reply.headers.items()}, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


def push_blob(registry: DockerRegistry, repository: str, **headers: str) -> int:
    status, reply, _ = ask("POST", f"{registry.url}/v2/{repository}/blobs/uploads/", b"", **headers)
    if status != 202:
        return status
    target = f"{reply['location']}&{urlencode({'digest': DIGEST})}"
    return ask("PUT", target, BLOB, Content_Type="application/octet-stream", **headers)[0]


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_anonymous_holds_what_is_pushed_and_serves_ranges(tmp_path: Path) -> None:
    with docker_registry.anonymous(tmp_path / "registry") as registry:
        assert push_blob(registry, "library/tiny") == 201
        assert registry.blob_file(DIGEST).read_bytes() == BLOB
        status, headers, body = ask(
            "GET", f"{registry.url}/v2/library/tiny/blobs/{DIGEST}", Range="bytes=2-6"
        )
        assert (status, body, headers["content-range"]) == (206, BLOB[2:7], f"bytes 2-6/{len(BLOB)}")
        assert ask("DELETE", f"{registry.url}/v2/library/tiny/blobs/{DIGEST}")[0] == 202
        held = image(b"weights", ("license", b"text"))
        registry.hold(held, "a/b", "c")
        assert registry.manifest("a/b", "c") == held.manifest
        pid = registry.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_basic_wants_the_password(tmp_path: Path) -> None:
    with docker_registry.basic(tmp_path / "registry", {"ann": "s3cret:x", "bob": "y"}) as registry:
        status, headers, _ = ask("GET", f"{registry.url}/v2/")
        assert (status, headers["www-authenticate"]) == (401, 'Basic realm="tests"')
        assert ask("GET", f"{registry.url}/v2/", None, **basic("ann", "wrong"))[0] == 401
        assert ask("GET", f"{registry.url}/v2/", None, **basic("ann", "s3cret:x"))[0] == 200
        assert push_blob(registry, "library/tiny", **basic("bob", "y")) == 201


@pytest.fixture
def issuer() -> Iterator[TokenIssuer]:
    accounts = [Account("ann", "pw", identity_token="from-a-log-in"), Account("bob", "pw")]
    grants = [
        Grant("ann", "ann/.*", ALL),
        Grant("ann", "public/.*", ALL),
        Grant("", "public/.*", frozenset({"pull"})),
    ]
    with serving(TokenIssuer(accounts, grants)) as running:
        yield running


def test_bearer_wants_a_token_for_the_scope(tmp_path: Path, issuer: TokenIssuer) -> None:
    with docker_registry.bearer(tmp_path / "registry", issuer) as registry:
        status, headers, _ = ask("POST", f"{registry.url}/v2/ann/m/blobs/uploads/", b"")
        assert status == 401
        challenge = headers["www-authenticate"]
        assert challenge.startswith(
            f'Bearer realm="{issuer.url}",service="{SERVICE}",scope="repository:ann/m:'
        )

        asked = urlencode({"service": SERVICE, "scope": "repository:ann/m:pull,push"})
        reply = json.loads(ask("GET", f"{issuer.url}?{asked}", None, **basic("ann", "pw"))[2])
        assert push_blob(registry, "ann/m", Authorization=f"Bearer {reply['token']}") == 201
        assert push_blob(registry, "bob/m", Authorization=f"Bearer {reply['token']}") == 401
        reply = json.loads(ask("GET", f"{issuer.url}?{asked}", None, **basic("bob", "pw"))[2])
        assert push_blob(registry, "ann/m", Authorization=f"Bearer {reply['token']}") == 401
        assert issuer.requests[0] == TokenRequest("GET", "ann", SERVICE, ("repository:ann/m:pull,push",), 200)


def test_the_issuer_takes_identity_tokens_and_refuses_what_is_wrong(issuer: TokenIssuer) -> None:
    form = {"grant_type": "refresh_token", "service": SERVICE, "client_id": "tests"}
    form["scope"] = "repository:ann/m:pull repository:bob/m:pull"
    good = ask("POST", issuer.url, urlencode({**form, "refresh_token": "from-a-log-in"}).encode())
    _, claims, _ = json.loads(good[2])["access_token"].split(".")
    decoded = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    assert decoded["access"] == [{"type": "repository", "name": "ann/m", "actions": ["pull"]}]

    assert ask("POST", issuer.url, urlencode({**form, "refresh_token": "other"}).encode())[0] == 401
    asked = f"{issuer.url}?{urlencode({'service': SERVICE})}"
    assert ask("GET", asked, None, **basic("ann", "no"))[0] == 401
    assert ask("GET", asked)[0] == 200
    assert ask("GET", issuer.url, None, **basic("ann", "pw"))[0] == 400


def test_a_registry_dies_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from tests.registry.docker_registry import anonymous\n"
        "with anonymous(Path(sys.argv[1])) as registry:\n"
        "    print(registry.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    child = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "registry")], capture_output=True, text=True, cwd=root
    )
    pid = int(child.stdout)
    # The kill arrives before the parent's exit is reported; the orphan may stay a zombie for a moment.
    stat = Path(f"/proc/{pid}/stat")
    for _ in range(1000):
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX":
            return
        os.sched_yield()
    pytest.fail("the registry outlived its parent")
