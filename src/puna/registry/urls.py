"""Addresses on the web, read by one strict parser: what has been checked is what is connected to.

Source: RFC 3986, narrowed. Whatever two parsers could read in two ways is refused: backslashes, control
characters, blanks, text outside ASCII, user names, empty ports, host names with escapes, and numbers for a
host other than the four decimal ones of an IPv4 address.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from puna.errors import AddressRefused

_LONGEST = 16 << 10
_LONGEST_NAME = 253
_PORTS = {"http": 80, "https": 443}
_PLAIN = re.compile(r"[\x21-\x5b\x5d-\x7e]+")
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^:\[\]@]+)(?::(?P<port>[0-9]{1,5}))?", re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
# The last label of what `inet_aton` takes for a number: 127.1, 0x7f.1, 2130706433.
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: who is spoken to, and how. Two of them are equal where RFC 6454 says so.

    Attributes:
        scheme: `http` or `https`.
        host: a name in lower case, or an IP address without brackets.
        port: 1 to 65535.
    """

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Host, and port where it is not the scheme's own, as URLs and the Host header write them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


@dataclass(frozen=True, slots=True)
class Address:
    """A URL in the two parts that a request needs.

    Attributes:
        origin: who is asked.
        target: path and query, beginning with `/`.
    """

    origin: Origin
    target: str

    def __str__(self) -> str:
        return f"{self.origin}{self.target}"


def parse_url(text: str) -> Address:
    """The address that an absolute `http` or `https` URL gives; its fragment is left out.

    Raises:
        AddressRefused: it is no such URL, or one that could be read in two ways.
    """
    if len(text) > _LONGEST:
        raise AddressRefused(f"an address of {len(text)} characters is refused; {_LONGEST} is the limit")
    if not _PLAIN.fullmatch(text):
        raise AddressRefused(
            f"the address {text[:100]!r} is refused: it has characters that a URL cannot have"
        )
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise AddressRefused(f"the address {text[:100]!r} is refused: {error}") from error
    if parts.scheme not in _PORTS:
        raise AddressRefused(f"the scheme {parts.scheme[:20]!r} is refused: only https and http are spoken")
    if "@" in parts.netloc:
        raise AddressRefused("an address with a user name in it is refused")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(parse_authority(parts.scheme, parts.netloc), target)


def parse_authority(scheme: str, text: str) -> Origin:
    """The origin of `host` or `host:port`. Raises: AddressRefused."""
    match = _AUTHORITY.fullmatch(text)
    if not match:
        raise AddressRefused(f"{text[:100]!r} is refused: it is no host and port")
    port = int(match["port"]) if match["port"] else _PORTS[scheme]
    if not 1 <= port <= 65535:
        raise AddressRefused(f"{text[:100]!r} is refused: {port} is no port")
    return Origin(scheme, _host(match["host"].lower()), port)


def _host(text: str) -> str:
    try:
        if text.startswith("["):
            return str(ipaddress.IPv6Address(text[1:-1]))
        if _NUMBER.fullmatch(text):
            return str(ipaddress.IPv4Address(text))
    except ValueError as error:
        raise AddressRefused(f"{text[:100]!r} is refused: it is no proper IP address") from error
    if len(text) > _LONGEST_NAME or not _NAME.fullmatch(text):
        raise AddressRefused(f"{text[:100]!r} is refused: it is no host name")
    return text
