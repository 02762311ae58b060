"""What the text of a setting means, by Ollama's rules: truths, numbers, durations, addresses.

Each function raises ValueError, with a text that says what is wanted, for what has no meaning.
"""

import math
import re
from dataclasses import dataclass

from puna.humanize import duration_seconds

DEFAULT_PORT = 11434

_FALSE = {"0", "f", "F", "false", "FALSE", "False"}
_SCHEME_PORTS = {"http": 80, "https": 443}
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_SIZE = re.compile(r"([0-9]{1,18})\s*([KMGT]?)(?:i?B)?", re.ASCII | re.IGNORECASE)
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is.

    Attributes:
        scheme: `http` or `https`.
        host: without brackets; empty for every address of the machine.
        path: before the paths of the API, for servers behind a proxy; without the slash at its end.
    """

    scheme: str = "http"
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    path: str = ""

    @property
    def url(self) -> str:
        """As a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def clean(text: str) -> str:
    """The text without blanks, and then without quotes, around it."""
    return text.strip().strip("\"'")


def truth(text: str) -> bool:
    """False for what Go's `ParseBool` takes for false, in any spelling it knows; true for anything else."""
    return text not in _FALSE


def unsigned(text: str) -> int:
    """A whole number in decimal digits."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise ValueError(f"{text[:100]!r} is no whole number of 0 or more")
    return int(text)


def size(text: str) -> int:
    """A number of bytes; K, M, G or T after it multiplies by a power of 1024."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:100]!r} is no number of bytes such as 1048576, 64M or 2G")
    return int(match[1]) << _UNITS[match[2].lower()]


def seconds(text: str) -> float:
    """A duration: whole seconds, or Go's form such as 1m30s; infinite for a negative one."""
    plain = text.removeprefix("-")
    value = (
        float(text) if plain.isascii() and plain.isdecimal() and len(plain) <= 18 else duration_seconds(text)
    )
    return math.inf if value < 0 else abs(value)  # -0 is 0


def stall_seconds(text: str) -> float:
    """A duration; infinite for 0 too."""
    return seconds(text) or math.inf


def words(text: str) -> tuple[str, ...]:
    """What stands between commas, without blanks and without what is empty."""
    return tuple(word for word in (part.strip() for part in text.split(",")) if word)


def endpoint(text: str) -> Endpoint:
    """`[scheme://]host[:port][/path]`, read as Ollama reads OLLAMA_HOST; a port that cannot be is 11434's.

    Without a scheme the port is 11434, with one it is the scheme's own.
    """
    scheme, separator, rest = text.partition("://")
    scheme, rest = (scheme.lower(), rest) if separator else ("http", text)
    if scheme not in _SCHEME_PORTS:
        raise ValueError(f"{text[:100]!r} has a scheme other than http and https")
    default = _SCHEME_PORTS[scheme] if separator else DEFAULT_PORT
    authority, _, path = rest.partition("/")
    if authority == "ollama.com" and not separator:
        scheme, default = "https", 443
    host, port = _host_and_port(authority, default)
    path = path.strip("/")
    return Endpoint(scheme, host, port, f"/{path}" if path else "")


def _host_and_port(authority: str, default: int) -> tuple[str, int]:
    if authority.startswith("["):
        host, _, rest = authority[1:].partition("]")
        return host, _port(rest[1:], default) if rest.startswith(":") else default
    if authority.count(":") > 1:
        return authority, default
    host, separator, port = authority.partition(":")
    if separator:
        return host, _port(port, default)
    return host or "127.0.0.1", default


def _port(text: str, default: int) -> int:
    number = int(text) if _PORT.fullmatch(text) else 65536
    return number if number < 65536 else default
