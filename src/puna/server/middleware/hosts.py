"""Under which names the server may be asked for.

A web page whose name is made to mean this machine's address (DNS rebinding) would be of the server's own
origin to a browser. It cannot choose what the browser writes into Host: its own name. Addresses written in
digits are not resolved, so they cannot be made to mean another machine.
"""

import ipaddress
import re
import socket
from collections.abc import Collection
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from puna.options import ServerSettings
from puna.server.errors import ErrorAnswer
from puna.server.middleware.headers import values
from puna.server.state import AppState

ANY = "*"

_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9_.-]{1,253}))(?::([0-9]{1,5}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class HostRules:
    """Which hosts are the server's own.

    Attributes:
        names: in lower case; `*` for all.
        any_address: every address in digits is, not only those of the machine itself.
    """

    names: frozenset[str]
    any_address: bool

    def allow(self, host: str) -> bool:
        """Whether a request for `host`, as `host_of` gives it, may be answered."""
        if ANY in self.names or host in self.names:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return self.any_address or address.is_loopback or address.is_unspecified


def host_rules(settings: ServerSettings, names: Collection[str]) -> HostRules:
    """The rules of a server with these settings, on a machine with these names."""
    own = {"localhost", *names, *settings.hosts}
    return HostRules(frozenset(name.lower() for name in own), not is_loopback(settings.listen.host))


def machine_names() -> set[str]:
    """What the machine calls itself, alone and in its local network."""
    name = socket.gethostname().lower()
    return {name, f"{name.partition('.')[0]}.local"} if name else set()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens at `host`; not so for every address, ``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_of(authority: str) -> str | None:
    """The host in a Host header, in lower case and without a port; None when it is malformed."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None or int(match[3] or 0) > 65535:
        return None
    if match[2]:
        return match[2].lower().removesuffix(".")
    try:
        return str(ipaddress.IPv6Address(match[1]))
    except ValueError:
        return None


class Hosts:
    """Refuses requests for other hosts, and targets that are none."""

    def __init__(self, app: ASGIApp, state: AppState, rules: HostRules) -> None:
        self._app = app
        self._state = state
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await self._state.error_response(scope, refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ErrorAnswer | None:
        given = values(scope, b"host")
        host = host_of(given[0]) if len(given) == 1 else None
        if host is None:
            return ErrorAnswer(400, "a request needs one valid Host header", "BadHost")
        if not scope["path"].isprintable():
            # A pattern that ends in `$` would take a newline for nothing.
            return ErrorAnswer(400, "a path has no control characters", "BadPath")
        if self._rules.allow(host):
            return None
        return ErrorAnswer(
            403,
            f"the host {host[:100]!r} is not this server's; if it is, name it in PUNA_HOSTS",
            "ForeignHost",
        )
