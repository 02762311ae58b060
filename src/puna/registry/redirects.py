"""Where a registry may send a client."""

import re
from dataclasses import dataclass
from urllib.parse import urljoin

from puna.errors import AddressRefused
from puna.registry.registries import Registry
from puna.registry.urls import parse_url

MOST_HOPS = 10

_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Hop:
    """The next step of a redirect.

    Attributes:
        url: what to ask for next.
        same_origin: whether scheme, host and port stay; only then may the Authorization header go along.
    """

    url: str
    same_origin: bool


def next_hop(current_url: str, location: str | None, registry: Registry, hops: int = 0) -> Hop:
    """The address that a redirect leads to.

    Whether the host may be at a private address is checked when it is connected to.

    Args:
        current_url: what was asked for.
        location: the Location header of the answer, absolute or relative.
        registry: whose request it was; plain http stays within it, and only where the user allows that.
        hops: redirects followed so far.

    Raises:
        AddressRefused: it may not be followed.
    """
    host = parse_url(current_url).origin.authority
    if hops >= MOST_HOPS:
        raise AddressRefused(f"{host} redirects more than {MOST_HOPS} times")
    if not location:
        raise AddressRefused(f"{host} redirects, but does not say where to")
    try:
        target = parse_url(_joined(current_url, location))
        registry.check_encryption(target.origin)
    except AddressRefused as error:
        raise AddressRefused(f"the redirect of {host} is refused: {error}") from error
    return Hop(str(target), target.origin == parse_url(current_url).origin)


def _joined(current_url: str, location: str) -> str:
    # Only what is relative is joined. urljoin takes `https:///x` for a path, and takes some characters out.
    if _ABSOLUTE.match(location):
        return location
    if not location.isprintable() or " " in location:
        raise AddressRefused(f"the address {location[:100]!r} has characters that a URL cannot have")
    try:
        return urljoin(current_url, location)
    except ValueError as error:
        raise AddressRefused(f"{location[:100]!r} is no address") from error
