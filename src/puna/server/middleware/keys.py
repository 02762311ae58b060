"""Who may use the server: API keys, and what each opens.

With keys, every request needs one, but those that ask whether the server is alive. What a route opens for
which keys it says itself; see `puna.server.routing`.
"""

import hashlib
import hmac
from collections import Counter
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from puna.options import ApiKey
from puna.server.errors import ErrorAnswer
from puna.server.middleware.headers import values
from puna.server.state import AppState

OPEN = frozenset({"/healthz", "/readyz"})
"""The paths that need no key."""

_LONGEST_SECRET = 1024


def presented(scope: Scope) -> list[str]:
    """The secrets that a request shows, as `Authorization: Bearer` or `x-api-key`; "" for other schemes."""
    shown = []
    for value in values(scope, b"authorization"):
        scheme, _, secret = value.partition(" ")
        shown.append(secret.strip() if scheme.lower() == "bearer" else "")
    return [*shown, *values(scope, b"x-api-key")]


def find_key(keys: Sequence[ApiKey], secrets: Sequence[str]) -> ApiKey | None:
    """The key that all of these secrets are of; None when there is none, or nothing is shown.

    How long this takes tells nothing about how much of a secret is right, nor about which key it is: digests
    are compared, all of them, each in constant time.
    """
    found: set[int] = set()
    for secret in secrets:
        digest = hashlib.sha256(secret[:_LONGEST_SECRET].encode()).digest()
        matches = [hmac.compare_digest(key.digest, digest) for key in keys]
        found.add(matches.index(True) if any(matches) else -1)
    number = found.pop() if len(found) == 1 else -1
    return keys[number] if number >= 0 else None


class Keys:
    """Lets requests through that show a key, and so many at once as it may have."""

    def __init__(self, app: ASGIApp, state: AppState) -> None:
        self._app = app
        self._state = state
        self._keys = state.settings.api_keys
        self._running: Counter[bytes] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] != "http" or not self._keys or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        key = find_key(self._keys, presented(scope))
        if key is None:
            await self._refuse(_unknown(), scope, receive, send)
        elif key.max_concurrent and self._running[key.digest] >= key.max_concurrent:
            await self._refuse(_busy(key), scope, receive, send)
        else:
            await self._admit(key, scope, receive, send)

    async def _admit(self, key: ApiKey, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["key"] = key
        self._running[key.digest] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running[key.digest] -= 1

    async def _refuse(self, answer: ErrorAnswer, scope: Scope, receive: Receive, send: Send) -> None:
        self._state.metrics.error(answer.kind)
        await self._state.error_response(scope, answer)(scope, receive, send)


def _unknown() -> ErrorAnswer:
    return ErrorAnswer(
        401, "unauthorized: a valid API key is needed", "NoKey", {"WWW-Authenticate": 'Bearer realm="puna"'}
    )


def _busy(key: ApiKey) -> ErrorAnswer:
    text = f"too many requests at once with this API key; it may have {key.max_concurrent}"
    return ErrorAnswer(429, text, "KeyBusy", {"Retry-After": "1"})
