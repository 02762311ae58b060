"""Authorization: token servers, realms, keys, credentials. Servers, TLS and signatures are real."""

import base64
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from tests.registry.loopback import Authority, Loopback, Reply, Request, Server, canary_network

from puna.errors import AddressRefused, FetchError, Unauthorized
from puna.registry import auth
from puna.registry.auth import Authorizer, check_realm, read_token, signed_text, verify_login, ways_to_ask
from puna.registry.credentials import Credentials
from puna.registry.http import HttpClient, Upload
from puna.registry.keys import read_or_make_key
from puna.registry.registries import Registry, registry_for
from puna.registry.urls import Origin

HOST = "registry.example.com"
URL = f"https://{HOST}/v2/library/m/manifests/1"
SCOPE = "repository:library/m:pull"
OTHER = Origin("https", "auth.example.net", 443)
USER = Credentials("user", "pass word")
USER_BASIC = "Basic " + base64.b64encode(b"user:pass word").decode()


class Issuer:
    """A registry with its token server.

    Attributes:
        realm: what the challenge names.
        scheme: of the challenge.
        tokens: tokens given out, in order; the newest is the one that is taken.
        refuse: says of a token request whether it is refused.
        reply: the fields of a token reply besides the token.
        accept: whether the registry takes its tokens.
    """

    def __init__(self) -> None:
        self.realm = f"https://{HOST}/token"
        self.challenge = 'Bearer realm="{realm}",service="s & s",scope="repository:library/m:pull a:b:c"'
        self.tokens: list[str] = []
        self.asked: list[Request] = []
        self.refuse: Callable[[Request], bool] = lambda request: False
        self.accept: Callable[[str], bool] = lambda value: True
        self.reply: Callable[[str], Mapping[str, object]] = lambda token: {"token": token}
        self.status = 401

    def answer(self, request: Request) -> Reply:
        if urlsplit(request.target).path == "/token":
            return self._token(request)
        value = request.headers.get("authorization", "")
        if value and value in {f"Bearer {token}" for token in self.tokens[-1:]} and self.accept(value):
            return Reply(body=b"granted")
        if value.startswith("Basic ") and self.challenge.startswith("Basic") and self.accept(value):
            return Reply(body=b"granted")
        challenge = self.challenge.format(realm=self.realm)
        return Reply(401, [("WWW-Authenticate", challenge)], b"TOP-SECRET")

    def _token(self, request: Request) -> Reply:
        self.asked.append(request)
        if self.refuse(request):
            return Reply(self.status, body=b"TOP-SECRET")
        self.tokens.append(f"token-{len(self.tokens)}")
        return Reply(body=json.dumps(self.reply(self.tokens[-1])).encode())


@pytest.fixture
def net() -> Iterator[Loopback]:
    with canary_network() as loopback:
        yield loopback


@pytest.fixture
def client(net: Loopback) -> Iterator[HttpClient]:
    with HttpClient(net.network(), lambda url: None) as client:
        yield client


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def issuer(net: Loopback, authority: Authority) -> Iterator[Issuer]:
    """A registry at HOST, which is also `auth.example.net`."""
    issuer = Issuer()
    server = Server(issuer.answer, authority.context(HOST, OTHER.host))
    net.add(HOST, server)
    net.add(OTHER.host, server)
    yield issuer
    server.close()


@pytest.fixture
def registry(authority: Authority) -> Registry:
    return replace(registry_for(HOST, {}), ca=authority.file)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The folder of the Ollama key; there is none yet."""
    return tmp_path / "keys"


def no_one(host: str) -> None:
    return None


def pull(authorizer: Authorizer, url: str = URL) -> bytes:
    with authorizer.send("GET", url, scope=SCOPE) as response:
        assert response.status == 200
        return response.read(100)


def signer(request: Request, folder: Path) -> bool:
    """Whether a token request carries a valid signature of the key in `folder`, for just this URL."""
    public, _, signature = request.headers.get("authorization", "").partition(":")
    line = (folder / "id_ed25519.pub").read_text()
    key = load_ssh_public_key(line.encode())
    assert isinstance(key, Ed25519PublicKey)
    url = f"https://{request.headers['host']}{request.target}"
    empty = "ZTNiMGM0NDI5OGZjMWMxNDlhZmJmNGM4OTk2ZmI5MjQyN2FlNDFlNDY0OWI5MzRjYTQ5NTk5MWI3ODUyYjg1NQ=="
    try:
        key.verify(base64.b64decode(signature), f"GET,{url},{empty}".encode())
    except InvalidSignature:
        return False
    return public == line.split()[1]


# Tokens.


def test_an_anonymous_token(client: HttpClient, registry: Registry, issuer: Issuer, keys: Path) -> None:
    authorizer = Authorizer(client, registry, no_one, keys)
    assert authorizer.authorization(SCOPE) is None
    for _ in range(3):
        assert pull(authorizer) == b"granted"
    assert authorizer.authorization(SCOPE) == "Bearer token-0"
    (request,) = issuer.asked
    assert request.method == "GET"
    assert "authorization" not in request.headers
    assert parse_qs(urlsplit(request.target).query) == {
        "service": ["s & s"],
        "scope": ["repository:library/m:pull", "a:b:c"],
    }
    assert not keys.exists()


@pytest.mark.parametrize("field", ["token", "access_token"])
def test_the_names_of_a_token(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path, field: str
) -> None:
    issuer.reply = lambda token: {field: token, "more": [1]}
    assert pull(Authorizer(client, registry, no_one, keys)) == b"granted"


def test_the_scope_of_the_request_where_the_challenge_has_none(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path
) -> None:
    issuer.challenge = 'Bearer realm="{realm}?a=b"'
    pull(Authorizer(client, registry, no_one, keys))
    assert parse_qsl(urlsplit(issuer.asked[0].target).query) == [("a", "b"), ("scope", SCOPE)]


def test_scopes_have_tokens_of_their_own(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path
) -> None:
    issuer.accept = lambda value: True
    authorizer = Authorizer(client, registry, no_one, keys)
    pull(authorizer)
    with authorizer.send("GET", URL, scope="repository:library/m:push") as response:
        assert response.status == 200
    assert authorizer.authorization(SCOPE) == "Bearer token-0"
    assert authorizer.authorization("repository:library/m:push") == "Bearer token-1"


def test_the_name_and_password_go_to_the_token_server_only(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path, net: Loopback
) -> None:
    issuer.realm = f"{OTHER}/token"
    registry = replace(registry, realms=(OTHER,))
    stored = {HOST: USER}
    assert pull(Authorizer(client, registry, stored.get, keys)) == b"granted"
    (request,) = issuer.asked
    assert request.headers["host"] == OTHER.host
    assert request.headers["authorization"] == USER_BASIC


def test_an_identity_token(client: HttpClient, registry: Registry, issuer: Issuer, keys: Path) -> None:
    issuer.reply = lambda token: {"access_token": token}
    stored = {HOST: Credentials("", "long lived", identity_token=True)}
    pull(Authorizer(client, registry, stored.get, keys))
    (request,) = issuer.asked
    assert (request.method, request.target) == ("POST", "/token")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qs(request.body.decode()) == {
        "grant_type": ["refresh_token"],
        "client_id": ["puna"],
        "service": ["s & s"],
        "scope": ["repository:library/m:pull a:b:c"],
        "refresh_token": ["long lived"],
    }


def test_basic(client: HttpClient, registry: Registry, issuer: Issuer, keys: Path) -> None:
    issuer.challenge = 'Basic realm="r"'
    authorizer = Authorizer(client, registry, lambda host: USER, keys)
    assert pull(authorizer) == b"granted"
    assert authorizer.authorization(SCOPE) == USER_BASIC
    issuer.accept = lambda value: False
    with pytest.raises(Unauthorized, match=rf"does not take the stored credentials.*`puna login {HOST}`"):
        pull(Authorizer(client, registry, lambda host: USER, keys))
    with pytest.raises(Unauthorized, match=rf"to log in, run `puna login {HOST}`"):
        pull(Authorizer(client, registry, no_one, keys))


@pytest.mark.parametrize("challenge", ["", "Digest realm=x", "Negotiate", "@@"])
def test_challenges_that_cannot_be_answered(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path, challenge: str
) -> None:
    issuer.challenge = challenge
    with pytest.raises(Unauthorized, match="in a way that is not supported"):
        pull(Authorizer(client, registry, lambda host: USER, keys))


# Lifetimes.


def test_a_token_is_renewed_before_it_expires(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path
) -> None:
    issuer.reply = lambda token: {"token": token, "expires_in": 300}
    clock = Clock()
    authorizer = Authorizer(client, registry, no_one, keys, clock)
    pull(authorizer)
    clock.now += 280
    pull(authorizer)
    assert len(issuer.asked) == 1
    clock.now += 15
    pull(authorizer)
    assert len(issuer.asked) == 2
    assert authorizer.authorization(SCOPE) == "Bearer token-1"


def test_a_token_that_the_registry_has_taken_and_takes_no_more_is_renewed(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path
) -> None:
    authorizer = Authorizer(client, registry, no_one, keys)
    for _ in range(5):
        pull(authorizer)
        issuer.tokens.append("another")  # from here on the newest is not the one we have
    assert len(issuer.asked) == 5


@pytest.mark.parametrize("life", [None, 0, -5, "300", True, [], 10])
def test_odd_lifetimes_are_a_minute(life: object) -> None:
    assert read_token("h", json.dumps({"token": "t", "expires_in": life}).encode()) == ("t", 60)


def test_long_lifetimes_are_a_day() -> None:
    assert read_token("h", b'{"token": "t", "expires_in": 1e300}') == ("t", 24 * 3600)
    assert read_token("h", b'{"token": "t", "expires_in": 300}') == ("t", 300)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"TOP-SECRET",
        b"[]",
        b"{}",
        b'{"token": ""}',
        b'{"token": 5}',
        b'{"token": ["TOP-SECRET"]}',
        b'{"token": "TOP-SECRET\\r\\nX: y"}',
        b'{"token": "TOP-SECRET \xc3\xa9"}',
        b'{"token": "\xff"}',
        b'{"x": ' + b"[" * 30_000,
        b'{"token": "' + b"x" * 40_000 + b'"}',
    ],
)
def test_replies_without_a_token(content: bytes) -> None:
    with pytest.raises(FetchError, match=r"^h gives no token") as caught:
        read_token("h", content)
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_token_reply_is_bounded(client: HttpClient, registry: Registry, issuer: Issuer, keys: Path) -> None:
    issuer.reply = lambda token: {"token": token, "more": "x" * 70_000}
    with pytest.raises(FetchError, match="more than the 65536 bytes"):
        pull(Authorizer(client, registry, no_one, keys))


def test_a_token_server_that_is_broken(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path
) -> None:
    issuer.refuse = lambda request: True
    for issuer.status in (500, 429, 302):
        with pytest.raises(FetchError, match=f"gives no token: it answers with status {issuer.status}$"):
            pull(Authorizer(client, registry, no_one, keys))


def test_many_threads_ask_once(client: HttpClient, registry: Registry, issuer: Issuer, keys: Path) -> None:
    authorizer = Authorizer(client, registry, no_one, keys)
    got: list[bytes] = []
    threads = [threading.Thread(target=lambda: got.append(pull(authorizer))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert got == [b"granted"] * 8
    assert len(issuer.asked) == 1


def test_an_upload_is_sent_again_from_its_start(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path
) -> None:
    source = BytesIO(b"before" + b"x" * 5000)
    source.seek(6)
    authorizer = Authorizer(client, registry, no_one, keys)
    with authorizer.send("PUT", URL, scope=SCOPE, body=Upload(source, 5000)) as response:
        assert response.status == 200


# Ollama's key.


def test_the_key_is_made_and_used_where_the_registry_knows_it(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path
) -> None:
    registry = replace(registry, ollama_key=True)
    issuer.refuse = lambda request: not signer(request, keys)
    assert pull(Authorizer(client, registry, no_one, keys)) == b"granted"
    (request,) = issuer.asked
    names = [name for name, _ in parse_qsl(urlsplit(request.target).query)]
    assert names == ["nonce", "scope", "scope", "service", "ts"]
    assert "service=s+%26+s" in request.target
    assert "scope=repository%3Alibrary%2Fm%3Apull" in request.target
    values = parse_qs(urlsplit(request.target).query)
    assert len(base64.urlsafe_b64decode(values["nonce"][0] + "==")) == 16
    assert "=" not in values["nonce"][0]


def test_every_signature_is_for_one_request(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path
) -> None:
    registry = replace(registry, ollama_key=True)
    for _ in range(2):
        pull(Authorizer(client, registry, no_one, keys))
    first, second = issuer.asked
    assert first.target != second.target
    assert first.headers["authorization"] != second.headers["authorization"]
    assert not signer(replace(first, target=second.target), keys)
    assert signed_text("https://a/").startswith("GET,https://a/,")


def test_a_stranger_sees_no_key_unless_the_anonymous_request_is_refused(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path
) -> None:
    read_or_make_key(keys)
    pull(Authorizer(client, registry, no_one, keys))
    assert "authorization" not in issuer.asked[0].headers
    issuer.asked.clear()
    issuer.refuse = lambda request: "authorization" not in request.headers
    pull(Authorizer(client, registry, no_one, keys))
    assert [signer(request, keys) for request in issuer.asked if "authorization" in request.headers] == [True]


def test_a_token_that_is_not_taken_leads_to_the_next_way(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path
) -> None:
    """Docker Hub gives anyone a token, which then opens nothing private."""
    read_or_make_key(keys)
    issuer.accept = lambda value: value == "Bearer token-1"
    assert pull(Authorizer(client, registry, no_one, keys)) == b"granted"
    assert ["authorization" in request.headers for request in issuer.asked] == [False, True]
    issuer.asked.clear()
    issuer.accept = lambda value: False
    with pytest.raises(Unauthorized):
        pull(Authorizer(client, registry, no_one, keys))
    assert len(issuer.asked) == 2


def test_the_ways(registry: Registry, keys: Path) -> None:
    key = read_or_make_key(keys)
    known = replace(registry, ollama_key=True)
    way = auth.Way
    assert ways_to_ask(registry, None, None) == [way.ANONYMOUS]
    assert ways_to_ask(registry, None, key) == [way.ANONYMOUS, way.SIGNED]
    assert ways_to_ask(known, None, key) == [way.SIGNED, way.ANONYMOUS]
    assert ways_to_ask(known, USER, key) == ways_to_ask(registry, USER, None) == [way.CREDENTIALS]


def test_what_to_do_is_said(client: HttpClient, registry: Registry, issuer: Issuer, keys: Path) -> None:
    issuer.refuse = lambda request: True
    with pytest.raises(Unauthorized) as caught:
        pull(Authorizer(client, registry, no_one, keys))
    assert str(caught.value) == (f"unauthorized: access denied by {HOST}; to log in, run `puna login {HOST}`")
    with pytest.raises(Unauthorized, match=rf"add the key in {keys}/id_ed25519\.pub to your account there"):
        pull(Authorizer(client, replace(registry, ollama_key=True), no_one, keys))


def test_trouble_with_credentials_is_told_only_if_it_matters(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path
) -> None:
    def broken(host: str) -> Credentials | None:
        raise FetchError("docker-credential-desktop is not installed")

    assert pull(Authorizer(client, registry, broken, keys)) == b"granted"
    issuer.refuse = lambda request: True
    with pytest.raises(Unauthorized, match="docker-credential-desktop is not installed"):
        pull(Authorizer(client, registry, broken, keys))
    issuer.refuse = lambda request: False
    shutil.rmtree(keys, ignore_errors=True)
    read_or_make_key(keys)
    (keys / "id_ed25519").chmod(0o644)
    known = replace(registry, ollama_key=True)
    assert pull(Authorizer(client, known, no_one, keys)) == b"granted"
    issuer.refuse = lambda request: True
    with pytest.raises(Unauthorized, match="chmod 600"):
        pull(Authorizer(client, known, no_one, keys))


# Realms: A09 and A10.


@pytest.mark.parametrize(
    "realm",
    [
        "http://127.0.0.3:80/token",
        "https://127.0.0.3/token",
        "https://auth.example.net/token",
        f"https://{HOST}:8443/token",
        f"http://{HOST}/token",
        f"http://{HOST}:443/token",
        f"https://{HOST}@127.0.0.3/",
        f"https://user:pass@{HOST}/token",
        f"https://{HOST}./token",
        f"https://{HOST}.evil.example.net/token",
        f"https://evil.example.net/{HOST}",
        f"https://evil.example.net#@{HOST}/",
        f"https://evil.example.net\\\\@{HOST}/",
        f"https://{HOST}\\\\@evil.example.net/",
        f"https://{HOST}%2eevil.example.net/",
        "/token",
        "//127.0.0.3/token",
        "token",
        "",
        "ftp://127.0.0.3/",
        "https://",
        "https://[::1",
        f"https://{HOST}/" + "x" * 30_000,
        f"https://{HOST}/\u00e9",
    ],
)
def test_realms_elsewhere_are_refused_before_anything_is_done(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path, net: Loopback, realm: str
) -> None:
    issuer.realm = realm

    def find(host: str) -> Credentials | None:
        pytest.fail("credentials were looked for")

    with pytest.raises(AddressRefused) as caught:
        pull(Authorizer(client, replace(registry, ollama_key=True), find, keys))
    assert HOST in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert issuer.asked == []
    assert net.resolved == [HOST]
    assert not keys.exists()


@pytest.mark.parametrize(
    "challenge", ["Bearer", 'Bearer service="s"', 'Bearer realm="https://' + HOST, "Bearer realm="]
)
def test_realms_that_are_missing(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path, challenge: str
) -> None:
    issuer.challenge = challenge
    with pytest.raises(AddressRefused, match="does not say where to get it"):
        pull(Authorizer(client, registry, no_one, keys))


def test_realms_that_are_taken(registry: Registry) -> None:
    for realm in (f"https://{HOST}/token", f"HTTPS://{HOST.upper()}:443/x?y"):
        assert check_realm(realm, registry).origin == registry.origin
    assert check_realm(f"{OTHER}/x", replace(registry, realms=(OTHER,))).origin == OTHER
    docker = registry_for("docker.io", {})
    assert check_realm("https://auth.docker.io/token", docker).origin.host == "auth.docker.io"
    plain = registry_for(HOST, {}, insecure=True)
    assert check_realm(f"http://{HOST}/token", plain).origin == plain.origin
    with pytest.raises(AddressRefused):
        check_realm(f"http://{OTHER.host}/token", plain)


def test_a_listed_realm_by_plain_http_is_not_spoken_to_for_a_secure_registry(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path, net: Loopback
) -> None:
    """The configuration refuses to list such a realm; here it is listed all the same."""
    issuer.realm = f"http://{OTHER.host}/token"
    registry = replace(registry, realms=(Origin("http", OTHER.host, 80),))
    with pytest.raises(AddressRefused, match="insecure protocol http"):
        pull(Authorizer(client, registry, lambda host: USER, keys))
    assert net.connected == [("93.184.215.14", 443)]


def test_a_realm_at_a_private_address_is_refused(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path, net: Loopback
) -> None:
    issuer.realm = f"{OTHER}/token"
    net.names[OTHER.host] = [["10.0.0.1"]]
    registry = replace(registry, realms=(OTHER,))
    with pytest.raises(AddressRefused, match=rf"{OTHER.host} is refused"):
        pull(Authorizer(client, registry, lambda host: USER, keys))
    assert issuer.asked == []


# Where the authorization goes.


def test_another_origin_gets_no_authorization_and_none_is_obtained_for_it(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path
) -> None:
    authorizer = Authorizer(client, registry, lambda host: USER, keys)
    pull(authorizer)
    with authorizer.send("GET", f"{OTHER}/blob", scope=SCOPE) as response:
        assert response.status == 401
    assert len(issuer.asked) == 1


def test_errors_and_representations_hold_no_secret(
    client: HttpClient, registry: Registry, issuer: Issuer, keys: Path
) -> None:
    issuer.refuse = lambda request: True
    authorizer = Authorizer(client, registry, lambda host: USER, keys)
    with pytest.raises(Unauthorized) as caught:
        pull(authorizer)
    shown = str(caught.value) + repr(caught.value) + repr(authorizer.__dict__)
    assert "TOP-SECRET" not in shown
    assert USER.secret not in shown
    assert USER_BASIC not in shown


# Logging in.


def test_logging_in(client: HttpClient, registry: Registry, issuer: Issuer) -> None:
    issuer.refuse = lambda request: request.headers.get("authorization") != USER_BASIC
    verify_login(client, registry, USER)
    with pytest.raises(Unauthorized):
        verify_login(client, registry, Credentials("user", "wrong"))


def test_logging_in_where_there_is_no_registry(
    client: HttpClient, registry: Registry, net: Loopback, authority: Authority
) -> None:
    server = Server(lambda request: Reply(404, body=b"TOP-SECRET"), authority.context(HOST))
    net.add(HOST, server)
    with pytest.raises(FetchError, match=r"does not answer as a registry: status 404$"):
        verify_login(client, registry, USER)
    server.close()
