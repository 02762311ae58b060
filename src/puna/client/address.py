"""Where a server is, for those who connect to it."""

import ipaddress
import re
from dataclasses import replace

from puna import settings
from puna.errors import InvalidOption
from puna.variables import Endpoint, endpoint

_LOOPBACK = {4: "127.0.0.1", 6: "::1"}
_HOST = re.compile(r"[A-Za-z0-9_.:%-]{0,255}", re.ASCII)
_PATH = re.compile(r"[A-Za-z0-9_.~/-]{0,1024}", re.ASCII)


def configured_address() -> Endpoint:
    """The server that the user has configured; see `puna.settings.server_endpoint`. Raises: InvalidOption."""
    return _connectable(settings.server_endpoint())


def parse_address(text: str) -> Endpoint:
    """The address written as `[scheme://]host[:port][/path]`; what is missing has Ollama's defaults.

    Raises:
        InvalidOption: it cannot be one.
    """
    try:
        return _connectable(endpoint(text.strip()))
    except ValueError as error:
        raise InvalidOption(f"this is no address of a server: {error}") from error


def is_this_machine(address: Endpoint) -> bool:
    """Whether this machine is meant, as far as that can be told without asking anybody."""
    found = _ip(address.host)
    return address.host.lower() == "localhost" or (found is not None and found.is_loopback)


def _connectable(address: Endpoint) -> Endpoint:
    """The address to connect to: where a server listens on all addresses, the loopback one.

    Raises:
        InvalidOption: it has characters that no address has.
    """
    if not _HOST.fullmatch(address.host) or not _PATH.fullmatch(address.path):
        raise InvalidOption(f"this is no address of a server: {address.url[:100]!r}")
    found = _ip(address.host)
    if not address.host or (found is not None and found.is_unspecified):
        return replace(address, host=_LOOPBACK[found.version if found else 4])
    return address


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
