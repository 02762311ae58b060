"""An issuer of Bearer tokens for a real registry: the token protocol of the distribution project.

`GET` with Basic credentials or none, `POST` with a refresh token or a password. It answers with a JWT (RFC
7519, ES256) that holds the part of the wanted scopes which the user is granted.
"""

import base64
import json
import re
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from tests.registry.certificates import Identity, self_signed

SERVICE = "registry of the tests"
ISSUER = "issuer of the tests"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a user may do.

    Attributes:
        user: the account; empty for requests without credentials.
        repositories: a regular expression for whole names.
        actions: some of `pull`, `push`, `delete`.
    """

    user: str
    repositories: str
    actions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Account:
    """Who may ask for tokens: with the password, or with the identity token that a log-in gave."""

    user: str
    password: str
    identity_token: str = ""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What was asked of the issuer: the method, the account found (empty: nobody's), the scopes."""

    method: str
    user: str
    service: str
    scopes: tuple[str, ...]
    status: int


@dataclass(slots=True)
class TokenIssuer:
    """Signs tokens for `accounts` as `grants` allow.

    Attributes:
        lifetime: seconds a token is valid for.
        requests: what was asked so far.
    """

    accounts: Sequence[Account]
    grants: Sequence[Grant]
    lifetime: int = 300
    url: str = ""
    identity: Identity = field(default_factory=lambda: self_signed("localhost"))
    requests: list[TokenRequest] = field(default_factory=list)

    def user_of(self, authorization: str, form: dict[str, list[str]]) -> str | None:
        """The account of a request; empty without credentials, None when they are wrong."""
        scheme, _, encoded = authorization.partition(" ")
        if scheme.lower() == "basic":
            user, _, password = base64.b64decode(encoded).decode().partition(":")
            return self._find(user=user, password=password)
        match form.get("grant_type", [""])[0]:
            case "refresh_token":
                return self._find(identity_token=form["refresh_token"][0])
            case "password":
                return self._find(user=form["username"][0], password=form["password"][0])
        return None if authorization or form.get("grant_type") else ""

    def _find(self, **wanted: str) -> str | None:
        for account in self.accounts:
            if all(getattr(account, name) == text for name, text in wanted.items()):
                return account.user
        return None

    def access(self, user: str, scopes: Sequence[str]) -> list[dict[str, Any]]:
        """The part of the scopes that the user is granted, as the token's claim wants it."""
        found = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            granted = {
                action
                for grant in self.grants
                if grant.user == user and kind == "repository" and re.fullmatch(grant.repositories, name)
                for action in grant.actions
            }
            allowed = sorted(granted & {*actions.split(",")})
            if allowed:
                found.append({"type": kind, "name": name, "actions": allowed})
        return found

    def sign(self, user: str, service: str, scopes: Sequence[str]) -> str:
        """A token for the user, for what of the scopes is granted."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": service,
            "jti": secrets.token_hex(8),
            "nbf": now - 10,
            "iat": now,
            "exp": now + self.lifetime,
            "access": self.access(user, scopes),
        }
        header = {"typ": "JWT", "alg": "ES256", "kid": key_id(self.identity.public_der)}
        signed = ".".join(_encode(json.dumps(part).encode()) for part in (header, claims))
        r, s = decode_dss_signature(self.identity.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def key_id(public_der: bytes) -> str:
    """The key's name as libtrust forms it: 240 bits of SHA-256 in twelve groups of base 32."""
    text = base64.b32encode(sha256(public_der).digest()[:30]).decode()
    return ":".join(text[start : start + 4] for start in range(0, 48, 4))


@contextmanager
def serving(issuer: TokenIssuer) -> Iterator[TokenIssuer]:
    """Run the issuer on a free loopback port; its `url` is set."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(issuer))
    issuer.url = f"http://127.0.0.1:{server.server_port}/token"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(issuer: TokenIssuer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            self._answer(query, query.get("scope", []), "token")

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            scopes = form.get("scope", [""])[0].split()
            self._answer(form, scopes, "access_token")

        def _answer(self, form: dict[str, list[str]], scopes: Sequence[str], key: str) -> None:
            user = issuer.user_of(self.headers.get("Authorization", ""), form)
            service = form.get("service", [""])[0]
            status = 401 if user is None else 400 if service != SERVICE else 200
            issuer.requests.append(
                TokenRequest(self.command, user or "", service, tuple(scopes), status),
            )
            if status == 200 and user is not None:
                document = {key: issuer.sign(user, service, scopes), "expires_in": issuer.lifetime}
            else:
                document = {"details": "incorrect credentials or service"}
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
