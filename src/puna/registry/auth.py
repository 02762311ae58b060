"""Authorization with a registry.

Sources: RFC 9110 section 11, RFC 7617 (Basic), the documentation of the Docker registry ("Token
Authentication Specification", "OAuth2 Token Authentication"), and Ollama's signed token requests.

A registry answers 401 with a challenge that names an address, the realm, where tokens are issued. Only the
registry's own origin, and those that the user or this program has listed for it, may be that address. Any
other could collect passwords and signatures, or be a machine of the local network that should not be called.
"""

import base64
import hashlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec

from puna.errors import AddressRefused, FetchError, Unauthorized
from puna.registry.challenge import Challenge, parse_challenges
from puna.registry.credentials import Credentials
from puna.registry.http import DEADLINE, IDLE_TIMEOUT, TOKEN_LIMIT, HttpClient, Response, Upload
from puna.registry.keys import Key, read_key, read_or_make_key, sign
from puna.registry.registries import Registry
from puna.registry.urls import Address, parse_url

# What a signature covers besides method and URL: Ollama's hash of the body, which is empty.
_EMPTY_BODY = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
_CLIENT_ID = "puna"
_MOST_SCOPES = 32
_MOST_TURNS = 4
# Answers of a token server that mean no, rather than that something broke.
_REFUSALS = {400, 401, 403, 404}
_TOKEN = re.compile(r"[\x21-\x7e]{1,32768}", re.ASCII)
# A token without a lifetime has 60 seconds, says the specification; shorter ones have too.
_SHORTEST_LIFE = 60.0
_LONGEST_LIFE = 24 * 3600.0
_MARGIN = 10.0


class Way(Enum):
    """How a token is asked for."""

    CREDENTIALS = "with the user's name and password, or identity token"
    SIGNED = "signed with the user's Ollama key"
    ANONYMOUS = "without saying who asks"


@dataclass(slots=True)
class _Grant:
    """What was obtained for a scope.

    Attributes:
        value: of the Authorization header.
        expires: when, by the clock.
        challenge: what it answers.
        way: the index of the way it was obtained.
        accepted: whether the registry has taken it once.
    """

    value: str = field(repr=False)
    expires: float
    challenge: Challenge
    way: int
    accepted: bool = False


class Authorizer:
    """Obtains and keeps authorizations for one registry, during one operation; several threads may use it.

    Args:
        client: sends the requests.
        registry: who is asked.
        find_credentials: gives the user's credentials for a host, None when there are none.
        key_folder: where the user's Ollama key is, or will be made when a registry wants one.
        clock: seconds, for the lifetimes of tokens.
        deadline: seconds that a token server may take.
    """

    def __init__(
        self,
        client: HttpClient,
        registry: Registry,
        find_credentials: Callable[[str], Credentials | None],
        key_folder: Path,
        clock: Callable[[], float] = time.monotonic,
        deadline: float = DEADLINE,
    ) -> None:
        self._deadline = deadline
        self._client = client
        self._registry = registry
        self._find_credentials = find_credentials
        self._key_folder = key_folder
        self._clock = clock
        self._lock = threading.RLock()
        self._grants: dict[str, _Grant] = {}
        self._asked_for_credentials = False
        self._found: Credentials | None = None
        # Why credentials or key could not be read: told only if the registry refuses what goes without them.
        self._trouble = ""

    def send(
        self,
        method: str,
        url: str,
        *,
        scope: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | Upload | None = None,
        deadline: float = DEADLINE,
        idle_timeout: float = IDLE_TIMEOUT,
    ) -> Response:
        """`HttpClient.send`, with the authorization that the registry asks for, obtained on the way.

        To another origin than the registry's the request goes without any.

        Args:
            scope: what is to be done, as `repository:library/m:pull`; requests of one scope share a token.
            body: an `Upload` is sent again from where its source stood.

        Raises:
            Unauthorized: the registry takes nothing that there is to offer.
            AddressRefused, FetchError, Interrupted: as `HttpClient.send`.
        """
        own = parse_url(url).origin == self._registry.origin
        start = body.source.tell() if isinstance(body, Upload) else 0
        value = self.authorization(scope) if own else None
        for _ in range(_MOST_TURNS):
            sent = {**(headers or {}), **({"Authorization": value} if value else {})}
            response = self._client.send(
                method,
                url,
                registry=self._registry,
                headers=sent,
                body=body,
                deadline=deadline,
                idle_timeout=idle_timeout,
            )
            if response.status != 401 or not own:
                self._accept(scope, value)
                return response
            with response:
                challenges = parse_challenges(response.headers.get_all("WWW-Authenticate") or ())
            value = self.answer(challenges, scope, value)
            if isinstance(body, Upload):
                body.source.seek(start)
        raise self._denied()

    def authorization(self, scope: str) -> str | None:
        """The value of the Authorization header for a scope; None while none was asked for.

        Raises: as `answer`, when one has expired and no new one can be had.
        """
        with self._lock:
            grant = self._grants.get(scope)
            if grant is not None and self._clock() >= grant.expires:
                grant = self._grants[scope] = self._obtain([grant.challenge], scope, 0)
            return grant.value if grant else None

    def answer(self, challenges: Sequence[Challenge], scope: str, refused: str | None) -> str:
        """The value of the Authorization header to try next, after an answer 401.

        Args:
            challenges: of that answer.
            scope: what the request was for.
            refused: the value that the request had.

        Raises:
            Unauthorized: there is nothing more to try.
            AddressRefused: the registry sends for a token to where it may not.
            FetchError: the token server does not work.
        """
        with self._lock:
            grant = self._grants.get(scope)
            first = 0
            if grant is not None and grant.value != refused and self._clock() < grant.expires:
                return grant.value  # another thread's, from just now
            if grant is not None and grant.value == refused and not grant.accepted:
                first = grant.way + 1
            self._grants[scope] = self._obtain(challenges, scope, first)
            return self._grants[scope].value

    def _accept(self, scope: str, value: str | None) -> None:
        with self._lock:
            grant = self._grants.get(scope)
            if grant is not None and grant.value == value:
                grant.accepted = True

    def _obtain(self, challenges: Sequence[Challenge], scope: str, first: int) -> _Grant:
        by_scheme = {challenge.scheme: challenge for challenge in reversed(challenges)}
        if bearer := by_scheme.get("bearer"):
            return self._bearer(bearer, scope, first)
        if basic := by_scheme.get("basic"):
            credentials = self._credentials()
            if first == 0 and credentials and not credentials.identity_token:
                return _Grant(credentials.basic(), float("inf"), basic, 0)
            raise self._denied()
        offered = ", ".join(sorted(by_scheme))[:100] or "none"
        raise Unauthorized(
            f"unauthorized: {self._registry.host} asks for authentication in a way that is not supported:"
            f" {offered!r}"
        )

    def _bearer(self, challenge: Challenge, scope: str, first: int) -> _Grant:
        realm = check_realm(challenge.parameters.get("realm"), self._registry)
        credentials = self._credentials()
        key = None if credentials else self._key(make=self._registry.ollama_key)
        ways = ways_to_ask(self._registry, credentials, key)
        for index, way in enumerate(ways[first:], first):
            request = _TokenRequest(realm, challenge.parameters.get("service", ""), _scopes(challenge, scope))
            reply = self._token(way, request, credentials, key)
            if reply is not None:
                token, lifetime = reply
                return _Grant(f"Bearer {token}", self._clock() + lifetime - _MARGIN, challenge, index)
        raise self._denied()

    def _token(
        self, way: Way, request: "_TokenRequest", credentials: Credentials | None, key: Key | None
    ) -> tuple[str, float] | None:
        """A token and its life in seconds; None when the token server says no."""
        method, body, headers = "GET", None, {"Accept": "application/json"}
        url = request.url()
        if way is Way.SIGNED and key is not None:
            url = request.signable_url(int(time.time()), secrets.token_bytes(16))
            headers["Authorization"] = f"{key.public}:{sign(key, signed_text(url))}"
        elif way is Way.CREDENTIALS and credentials is not None and credentials.identity_token:
            method, url, body = "POST", str(request.realm), request.form(credentials.secret)
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        elif way is Way.CREDENTIALS and credentials is not None:
            headers["Authorization"] = credentials.basic()
        host = request.realm.origin.host
        with self._client.send(
            method, url, registry=self._registry, headers=headers, body=body, deadline=self._deadline
        ) as response:
            if response.status in _REFUSALS:
                return None
            if response.status != 200:
                raise FetchError(f"{host} gives no token: it answers with status {response.status}")
            return read_token(host, response.read(TOKEN_LIMIT))

    def _credentials(self) -> Credentials | None:
        if not self._asked_for_credentials:
            self._asked_for_credentials = True  # once: a helper may ask the user
            try:
                self._found = self._find_credentials(self._registry.host)
            except FetchError as error:
                self._trouble = str(error)
        return self._found

    def _key(self, *, make: bool) -> Key | None:
        try:
            return read_or_make_key(self._key_folder) if make else read_key(self._key_folder)
        except FetchError as error:
            if self._registry.ollama_key:
                self._trouble = str(error)
            return None

    def _denied(self) -> Unauthorized:
        host = self._registry.host
        if self._trouble:
            return Unauthorized(f"unauthorized: access denied by {host}; {self._trouble}")
        if self._credentials():
            what = "it does not take the stored credentials, or they do not allow this; to replace them, run"
        elif self._registry.ollama_key:
            public = self._key_folder / "id_ed25519.pub"
            what = f"add the key in {public} to your account there, or run"
        else:
            what = "to log in, run"
        return Unauthorized(f"unauthorized: access denied by {host}; {what} `puna login {host}`")


def verify_login(client: HttpClient, registry: Registry, credentials: Credentials) -> None:
    """Ask the registry whether it takes these credentials.

    Raises:
        Unauthorized: it does not.
        FetchError: it cannot be reached, or is no registry.
    """
    # No key is used where credentials are given, so its folder does not matter.
    authorizer = Authorizer(client, registry, lambda host: credentials, Path())
    with authorizer.send("GET", f"{registry.origin}/v2/") as response:
        if response.status != 200:
            raise FetchError(f"{registry.host} does not answer as a registry: status {response.status}")


def ways_to_ask(registry: Registry, credentials: Credentials | None, key: Key | None) -> list[Way]:
    """How to ask for a token, the first first.

    The user's credentials are the only way where there are some. A signature goes before an anonymous request
    where the registry knows Ollama's keys, and behind it elsewhere, since it shows who asks.
    """
    if credentials is not None:
        return [Way.CREDENTIALS]
    if key is None:
        return [Way.ANONYMOUS]
    return [Way.SIGNED, Way.ANONYMOUS] if registry.ollama_key else [Way.ANONYMOUS, Way.SIGNED]


def check_realm(realm: str | None, registry: Registry) -> Address:
    """The address that a challenge sends the client to for a token.

    Raises:
        AddressRefused: it is missing, no URL, or neither the registry's origin nor listed for it.
    """
    if not realm:
        raise AddressRefused(f"{registry.host} asks for a token, but does not say where to get it")
    try:
        address = parse_url(realm)
    except AddressRefused as error:
        raise AddressRefused(f"{registry.host} sends for a token to where it may not: {error}") from error
    if address.origin != registry.origin and address.origin not in registry.realms:
        raise AddressRefused(
            f"{registry.host} sends for a token to {str(address.origin)[:300]}, which is not its own address;"
            " if that is right, list it as realms for this registry in the configuration"
        )
    return address


def signed_text(url: str) -> str:
    """What Ollama's key signs to ask for a token at `url`: good for this request and no other."""
    return f"GET,{url},{_EMPTY_BODY}"


def read_token(host: str, content: bytes) -> tuple[str, float]:
    """The token in a token server's reply, and its life in seconds.

    Raises:
        FetchError: there is none.
    """
    try:
        reply = msgspec.json.decode(content, type=_TokenReply)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # What it holds is secret, and it may be quoted in that error.
        raise FetchError(f"{host} gives no token: its reply is no JSON object") from None
    token = reply.token or reply.access_token
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise FetchError(f"{host} gives no token: its reply has none that is fit for a header")
    life = reply.expires_in
    if isinstance(life, bool) or not isinstance(life, int | float):
        life = 0
    return token, min(max(life, _SHORTEST_LIFE), _LONGEST_LIFE)


class _TokenReply(msgspec.Struct):
    token: Any = None
    access_token: Any = None
    expires_in: Any = None


@dataclass(frozen=True, slots=True)
class _TokenRequest:
    """What a token is asked for."""

    realm: Address
    service: str
    scopes: tuple[str, ...]

    def url(self, *more: tuple[str, str]) -> str:
        """The URL to GET, its parameters sorted by name."""
        path, _, query = self.realm.target.partition("?")
        pairs = [*parse_qsl(query, keep_blank_values=True), *self._pairs(), *more]
        query = urlencode(sorted(pairs, key=lambda pair: pair[0]))
        return str(replace(self.realm, target=f"{path}?{query}" if query else path))

    def signable_url(self, seconds: int, nonce: bytes) -> str:
        """The same, for one time only."""
        text = base64.urlsafe_b64encode(nonce).rstrip(b"=").decode()
        return self.url(("ts", str(seconds)), ("nonce", text))

    def form(self, identity_token: str) -> bytes:
        """The body of a request that changes an identity token into an access token."""
        pairs = [("grant_type", "refresh_token"), ("client_id", _CLIENT_ID), ("service", self.service)]
        scope = [("scope", " ".join(self.scopes))] if self.scopes else []
        return urlencode([*pairs, *scope, ("refresh_token", identity_token)]).encode()

    def _pairs(self) -> list[tuple[str, str]]:
        service = [("service", self.service)] if self.service else []
        return [*service, *(("scope", scope) for scope in self.scopes)]


def _scopes(challenge: Challenge, scope: str) -> tuple[str, ...]:
    return tuple((challenge.parameters.get("scope") or scope).split()[:_MOST_SCOPES])
