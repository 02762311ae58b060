"""Where a server is: the forms that Ollama's `OLLAMA_HOST` may have."""

import ipaddress
import re
from dataclasses import dataclass

from puna import settings
from puna.errors import InvalidOption

DEFAULT_PORT = 11434
_LOOPBACK = "127.0.0.1"
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[A-Za-z0-9_.:%-]{0,255}", re.ASCII)
_PATH = re.compile(r"[A-Za-z0-9_.~/-]{0,1024}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address.

    Attributes:
        scheme: `http` or `https`.
        host: a name or an IP address, without brackets; empty where only a port was given.
        port: 0 to 65535.
        path: what stands before the paths of the API, for servers behind a proxy; begins with a slash or is
            empty.
    """

    scheme: str
    host: str
    port: int
    path: str = ""

    @property
    def connect_host(self) -> str:
        """The host to connect to: where a server listens on all addresses, the loopback one."""
        address = _ip(self.host)
        if address is not None and address.is_unspecified:
            return "::1" if address.version == 6 else _LOOPBACK
        return self.host or _LOOPBACK

    @property
    def is_this_machine(self) -> bool:
        """Whether this machine is meant, as far as that can be told without asking anybody."""
        host = self.connect_host
        address = _ip(host)
        return host.lower() == "localhost" or (address is not None and address.is_loopback)

    @property
    def url(self) -> str:
        """The address as a URL, without a slash at its end."""
        host = self.connect_host
        return f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{self.port}{self.path}"


def configured_address() -> Address:
    """The server that the user has configured: `PUNA_HOST`, else `OLLAMA_HOST`, else 127.0.0.1:11434.

    Raises:
        InvalidOption: the setting is no address.
    """
    return parse_address(settings.variable("HOST") or "")


def parse_address(text: str) -> Address:
    """The address written as `[scheme://]host[:port][/path]`; what is missing has Ollama's defaults.

    Raises:
        InvalidOption: it cannot be one.
    """
    scheme, separator, rest = text.strip().rpartition("://")
    scheme = scheme.lower() or "http"
    if scheme not in _PORTS:
        raise InvalidOption(f"{text[:100]!r} is no address of a server: the scheme must be http or https")
    authority, _, path = rest.partition("/")
    host, port_text = _split_port(authority)
    if not _HOST.fullmatch(host) or not _PATH.fullmatch(path):
        raise InvalidOption(f"{text[:100]!r} is no address of a server such as 127.0.0.1:{DEFAULT_PORT}")
    if host == "ollama.com" and not separator:
        scheme = "https"
    default = _PORTS[scheme] if separator or scheme == "https" else DEFAULT_PORT
    return Address(
        scheme, host or _LOOPBACK if not authority else host, _port(port_text, default, text), _base(path)
    )


def _split_port(authority: str) -> tuple[str, str]:
    if authority.startswith("["):
        host, _, port = authority[1:].partition("]")
        return host, port.removeprefix(":")
    if authority.count(":") > 1:
        return authority, ""  # an IPv6 address without brackets
    host, _, port = authority.partition(":")
    return host, port


def _port(text: str, default: int, whole: str) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) < 65536):
        raise InvalidOption(f"{whole[:100]!r} is no address of a server: {text[:20]!r} is no port")
    return int(text)


def _base(path: str) -> str:
    stripped = path.strip("/")
    return f"/{stripped}" if stripped else ""


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
