"""Which web pages may use the server, and what browsers are told of it (CORS, fetch.spec.whatwg.org).

A page that may not is refused before anything is read: some requests a browser sends without asking first.
Credentials are never allowed, so no page can use what a browser remembers.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from puna.server.errors import ErrorAnswer
from puna.server.middleware.headers import adding, values
from puna.server.state import AppState

ANY = "*"
_MACHINE = ("localhost", "127.0.0.1", "0.0.0.0", "[::1]")
# Pages of programs on this machine: Electron, Tauri, editors, and extensions of browsers.
_PROGRAMS = ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")
_EXTENSIONS = (
    "chrome-extension://*",
    "moz-extension://*",
    "safari-web-extension://*",
    "safari-extension://*",
)

_METHODS = "GET, HEAD, POST, DELETE, OPTIONS"
_STAINLESS = (
    *("Arch", "Async", "Custom-Poll-Interval", "Helper-Method", "Lang", "OS", "Package-Version"),
    *("Poll-Helper", "Retry-Count", "Runtime", "Runtime-Version", "Timeout"),
)
_HEADERS = ", ".join(
    (
        *("Authorization", "Content-Type", "User-Agent", "Accept", "X-Requested-With", "X-Request-Id"),
        *("X-Api-Key", "Anthropic-Version", "Anthropic-Beta", "OpenAI-Beta"),
        "Anthropic-Dangerous-Direct-Browser-Access",
        *(f"X-Stainless-{name}" for name in _STAINLESS),
    )
)
_HALF_A_DAY = "43200"


@dataclass(frozen=True, slots=True)
class OriginRules:
    """Which origins may use the server.

    Attributes:
        every: all of them.
        pattern: what the text of one matches.
    """

    every: bool
    pattern: re.Pattern[str]

    def allow(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` may; the server's own pages may, which come from the request's host."""
        if self.every or self.pattern.fullmatch(origin.lower()):
            return True
        scheme, _, authority = origin.lower().partition("://")
        return scheme in ("http", "https") and authority == host.lower()


def origin_rules(configured: Iterable[str]) -> OriginRules:
    """The rules for these origins besides this machine's; `*` in one stands for anything but slashes."""
    listed = [origin.lower().rstrip("/") if "*" not in origin else origin.lower() for origin in configured]
    machine = [
        f"{scheme}://{host}{port}" for scheme in ("http", "https") for host in _MACHINE for port in ("", ":*")
    ]
    patterns = [_regex(origin) for origin in (*listed, *machine, *_PROGRAMS, *_EXTENSIONS) if origin != ANY]
    return OriginRules(ANY in listed, re.compile("|".join(patterns), re.ASCII))


def _regex(origin: str) -> str:
    return "[^/]*".join(re.escape(part) for part in origin.split("*"))


class Origins:
    """Refuses pages of other origins, and answers browsers that ask what is allowed."""

    def __init__(self, app: ASGIApp, state: AppState, rules: OriginRules) -> None:
        self._app = app
        self._state = state
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, answer it, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        origins = values(scope, b"origin")
        if refusal := self._refusal(scope, origins):
            await self._state.error_response(scope, refusal)(scope, receive, send)
            return
        if origins:
            allowed = ANY if self._rules.every else origins[0]
            send = adding(send, _answer_headers(allowed))
        if scope["method"] == "OPTIONS":
            headers = _preflight_headers() if origins else [(b"allow", _METHODS.encode())]
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, origins: list[str]) -> ErrorAnswer | None:
        if len(origins) > 1:
            return ErrorAnswer(400, "a request has at most one Origin header", "BadOrigin")
        if origins:
            if self._rules.allow(origins[0], *values(scope, b"host")):
                return None
            text = (
                f"the origin {origins[0][:100]!r} may not use this server; to let it, name it in PUNA_ORIGINS"
            )
            return ErrorAnswer(403, text, "ForeignOrigin")
        # Pages can have a browser send requests without an Origin: images, scripts, forms that get.
        if "cross-site" in values(scope, b"sec-fetch-site"):
            return ErrorAnswer(403, "web pages of other sites may not use this server", "ForeignOrigin")
        return None


def _answer_headers(allowed: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"access-control-allow-origin", allowed.encode("latin-1")),
        (b"access-control-expose-headers", b"X-Request-Id"),
        (b"vary", b"Origin"),
    ]


def _preflight_headers() -> list[tuple[bytes, bytes]]:
    return [
        (b"access-control-allow-methods", _METHODS.encode()),
        (b"access-control-allow-headers", _HEADERS.encode()),
        (b"access-control-max-age", _HALF_A_DAY.encode()),
    ]
