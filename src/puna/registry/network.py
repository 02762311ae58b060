"""Which addresses may be reached, and reaching them.

A name is resolved once: the addresses that were checked are the ones connected to, so that a name whose
answer changes between two questions (DNS rebinding) gains nothing. Resolver and connector can be replaced.
"""

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TypeAlias

from puna.errors import AddressRefused, FetchError

# Host and port to the texts of IP addresses; raises OSError or UnicodeError where there are none.
Resolve: TypeAlias = Callable[[str, int], Sequence[str]]
# IP address, port and seconds to a connected socket; raises OSError.
Connect: TypeAlias = Callable[[str, int, float], socket.socket]

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_CONNECT_SECONDS = 10.0
_MOST_ADDRESSES = 8


def _v4(*networks: str) -> tuple[ipaddress.IPv4Network, ...]:
    return tuple(ipaddress.IPv4Network(network) for network in networks)


def _v6(*networks: str) -> tuple[ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.IPv6Network(network) for network in networks)


# The IANA special-purpose registries. Python's own `is_private` and `is_global` change between releases.
_PRIVATE_V4 = _v4("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
# "This network", link-local (where cloud machines keep their secrets), protocol assignments, documentation,
# 6to4 relays, benchmarks, multicast and reserved: no registry is there.
_NEVER_V4 = (
    *_v4("0.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24"),
    *_v4("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
)
_PRIVATE_V6 = _v6("::1/128", "fc00::/7")
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
# Protocol assignments with Teredo, documentation, 6to4.
_NEVER_V6 = _v6("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
# IPv4 inside IPv6, in the last 32 bits: mapped, and translated by NAT64 (RFC 6052).
_CARRYING_V4 = _v6("::ffff:0:0/96", "64:ff9b::/96")


def is_allowed(address: IPAddress, *, private: bool) -> bool:
    """Whether the address may be connected to: a public one, or with `private` one of a local network.

    An IPv6 address that carries an IPv4 address is judged by that. Link-local, multicast, unspecified and
    reserved addresses are never allowed.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _CARRYING_V4):
            return is_allowed(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF), private=private)
        if any(address in network for network in _PRIVATE_V6):
            return private
        return address in _GLOBAL_V6 and not any(address in network for network in _NEVER_V6)
    if any(address in network for network in _PRIVATE_V4):
        return private
    return not any(address in network for network in _NEVER_V4)


def check_name(host: str, *, private: bool) -> None:
    """Check what the host's own text says of its address, for connections where someone else resolves it.

    Raises:
        AddressRefused: it is an address that may not be reached, or a name of this machine.
    """
    address = _literal(host)
    if address is not None and not is_allowed(address, private=private):
        raise _refused(host, private=private)
    name = host.rstrip(".")
    if (name == "localhost" or name.endswith(".localhost")) and not private:
        raise _refused(host, private=private)


def resolve(host: str, port: int) -> list[str]:
    """The IP addresses of `host`, as the system resolves it. Raises: OSError, UnicodeError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def connect(address: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection to an IP address. Raises: OSError."""
    connection = socket.create_connection((address, port), timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class Unreachable(FetchError):
    """A host that has no address, or none that answers."""


class Network:
    """The way out.

    Args:
        resolve: finds the addresses of a host.
        connect: connects to an address that has been checked.
    """

    def __init__(self, resolve: Resolve = resolve, connect: Connect = connect) -> None:
        self._resolve = resolve
        self._connect = connect

    def open(self, host: str, port: int, *, private: bool, timeout: float) -> socket.socket:
        """A connection to the first address of `host` that is allowed and answers.

        Args:
            host: a name, or an IP address without brackets.
            private: whether addresses of a local network are allowed too.
            timeout: seconds for all attempts together, resolving not counted.

        Raises:
            AddressRefused: the host has no address that is allowed.
            Unreachable: it has no address, or none that answers.
        """
        addresses = self._allowed(host, port, private=private)
        end = time.monotonic() + timeout
        last: OSError = TimeoutError("timed out")
        for address in addresses[:_MOST_ADDRESSES]:
            remaining = min(_CONNECT_SECONDS, end - time.monotonic())
            if remaining <= 0:
                break
            try:
                return self._connect(address, port, remaining)
            except OSError as error:
                last = error
        raise Unreachable(f"cannot connect to {host} port {port}: {last.strerror or last}") from last

    def dial(self, host: str, port: int, *, private: bool, timeout: float) -> "Future[socket.socket]":
        """`open` in a thread of its own, for it may hang in the system's resolver: give it up by `cancel`."""
        future: Future[socket.socket] = Future()

        def work() -> None:
            try:
                connection = self.open(host, port, private=private, timeout=timeout)
            except FetchError as error:
                with suppress(InvalidStateError):
                    future.set_exception(error)
                return
            try:
                future.set_result(connection)
            except InvalidStateError:  # nobody waits any longer
                connection.close()

        threading.Thread(target=work, name=f"connecting to {host}", daemon=True).start()
        return future

    def _allowed(self, host: str, port: int, *, private: bool) -> list[str]:
        literal = _literal(host)
        found = [host] if literal is not None else self._resolved(host, port)
        allowed = [text for text in found if is_allowed(_address(host, text), private=private)]
        if not allowed:
            raise _refused(host, private=private)
        return allowed

    def _resolved(self, host: str, port: int) -> Sequence[str]:
        try:
            found = self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"cannot find {host}: its name does not resolve") from error
        if not found:
            raise Unreachable(f"cannot find {host}: its name does not resolve")
        return found


def _literal(host: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _address(host: str, text: str) -> IPAddress:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise FetchError(f"cannot find {host}: {text[:100]!r} is no address") from error


def _refused(host: str, *, private: bool) -> AddressRefused:
    if private:
        return AddressRefused(f"{host} is refused: no registry is at such an address")
    return AddressRefused(
        f"{host} is refused: it is at a private address; if the registry is yours, set private = true for it"
        " in the configuration, or use --insecure"
    )
