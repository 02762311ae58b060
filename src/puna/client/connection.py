"""What both clients need of HTTP: where to, with what, and what a failure means."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx2

from puna import __version__, settings
from puna.client.address import configured_address, is_this_machine, parse_address
from puna.client.calls import Call
from puna.errors import InvalidOption, ServerUnreachable
from puna.variables import Endpoint

Verify: TypeAlias = bool | str | ssl.SSLContext
"""Whether a certificate is checked, the file of the authorities to check it by, or a context."""

CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a server.

    Attributes:
        timeout: seconds without any byte from the server before it counts as gone; None waits for ever, for a
            model may take long to load.
    """

    address: Endpoint
    api_key: str | None
    verify: Verify
    timeout: float | None

    @classmethod
    def of(cls, host: str | None, api_key: str | None, verify: Verify, timeout: float | None) -> Connection:
        """From a client's arguments; what is None is as the user has configured.

        Raises:
            InvalidOption: the host is no address.
        """
        address = configured_address() if host is None else parse_address(host)
        return cls(address, settings.api_key() if api_key is None else api_key, verify, timeout)

    def arguments(self) -> dict[str, Any]:
        """The arguments of httpx2's clients. Raises: InvalidOption: the file of authorities is no good."""
        url = self.address.url
        return {
            "base_url": url,
            "headers": self._headers(),
            "verify": self._context(),
            "timeout": httpx2.Timeout(self.timeout, connect=CONNECT_SECONDS),
            "proxy": None if is_this_machine(self.address) else settings.proxy_for(url),
            "trust_env": False,
            "follow_redirects": False,
        }

    def _headers(self) -> dict[str, str]:
        headers = {"User-Agent": f"puna/{__version__}", "Accept": "application/json, application/x-ndjson"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return headers

    def _context(self) -> ssl.SSLContext | bool:
        if self.address.scheme == "http":
            return False  # making a context reads the system's certificates
        if not isinstance(self.verify, str):
            return self.verify
        try:
            return ssl.create_default_context(cafile=self.verify)
        except OSError as error:
            raise InvalidOption(f"{self.verify}: not a file of certificates: {error}") from error

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns httpx2's errors into Puna's. Raises: ServerUnreachable."""
        url = self.address.url
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            hint = "; start one with: puna serve" if is_this_machine(self.address) else ""
            raise ServerUnreachable(
                f"could not connect to the server at {url}: {_reason(error)}{hint}"
            ) from error
        except httpx2.TimeoutException as error:
            raise ServerUnreachable(
                f"the server at {url} has sent nothing for {self.timeout} seconds"
            ) from error
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise ServerUnreachable(f"the connection to {url} broke: {_reason(error)}") from error


def headers_of(call: Call[Any], length: int | None = None) -> dict[str, str]:
    """The headers of a request.

    Args:
        length: of its content in bytes, where that comes in pieces.
    """
    headers = {} if call.body is None else {"Content-Type": "application/json"}
    return headers if length is None else {"Content-Length": str(length), **headers}


def _reason(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__
