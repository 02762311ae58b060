"""Which addresses are reached."""

import ipaddress
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.registry.loopback import PUBLIC, Loopback, RawServer, canary_network

from puna.errors import AddressRefused, FetchError
from puna.registry.network import Network, check_name, is_allowed

LOCAL = [
    *("127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("100.64.0.1", "::1", "fd00::1", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1"),
]
NEVER = [
    *("0.0.0.0", "0.1.2.3", "169.254.169.254", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
    *("192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1"),
    *("::", "fe80::1", "fec0::1", "ff02::1", "::ffff:169.254.169.254", "::ffff:0.0.0.0", "::127.0.0.1"),
    *("64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a00:1::1", "2002:5db8:d70e::1"),
    *("2001::1", "2001:db8::1", "3fff::1", "100::1", "4000::1", "::ffff:0:7f00:1", "fe80::1%eth0"),
]
PUBLIC_ONES = [
    PUBLIC,
    "1.1.1.1",
    "172.32.0.1",
    "100.128.0.1",
    "2606:4700::1111",
    "::ffff:1.1.1.1",
    "64:ff9b::101:101",
]


@pytest.fixture
def net() -> Iterator[Loopback]:
    with canary_network() as loopback:
        yield loopback


@pytest.mark.parametrize(
    ("addresses", "open_to", "with_leave"),
    [
        (PUBLIC_ONES, True, True),
        (LOCAL, False, True),
        (NEVER, False, False),
    ],
)
def test_the_policy(addresses: list[str], open_to: bool, with_leave: bool) -> None:
    for text in addresses:
        address = ipaddress.ip_address(text)
        assert is_allowed(address, private=False) is open_to, text
        assert is_allowed(address, private=True) is with_leave, text


@given(st.ip_addresses())
def test_what_is_public_is_so_for_python_too(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    allowed = is_allowed(address, private=False)
    if isinstance(address, ipaddress.IPv6Address) and address in ipaddress.ip_network("64:ff9b::/96"):
        return
    assert not allowed or (address.is_global and not address.is_multicast)
    assert allowed or not is_allowed(address, private=True) or not address.is_global


@pytest.mark.parametrize("address", [*LOCAL, *NEVER])
def test_a_name_at_such_an_address_is_refused_before_any_connection(net: Loopback, address: str) -> None:
    net.names["evil.example.com"] = [[address]]
    with pytest.raises(AddressRefused, match=r"evil\.example\.com is refused"):
        net.network().open("evil.example.com", 443, private=False, timeout=5)
    assert net.connected == []


def test_names_that_the_system_takes_for_numbers_are_checked_after_resolving() -> None:
    """The system's own resolver reads these as 127.0.0.1; nothing is asked of a name server."""
    for text in ("2130706433", "0x7f.1", "127.1", "0177.0.0.1"):
        with pytest.raises(AddressRefused):
            Network().open(text, 9, private=False, timeout=5)
    with pytest.raises(AddressRefused):
        Network().open("0", 9, private=True, timeout=5)


def test_only_the_allowed_of_several_addresses_are_tried(net: Loopback) -> None:
    server = RawServer(lambda connection: connection.sendall(b"hello"))
    net.names["two.example.com"] = [["127.0.0.1", PUBLIC, "10.0.0.1"]]
    net.servers[PUBLIC, 443] = server.port
    with net.network().open("two.example.com", 443, private=False, timeout=5) as connection:
        assert connection.recv(5) == b"hello"
    assert net.connected == [(PUBLIC, 443)]
    server.close()


def test_one_resolution_serves_check_and_connection(net: Loopback) -> None:
    """A14: public when it is checked, private when it would be asked for again."""
    server = RawServer(lambda connection: None)
    net.names["flip.example.com"] = [[PUBLIC], ["127.0.0.1"]]
    net.servers[PUBLIC, 443] = server.port
    net.network().open("flip.example.com", 443, private=False, timeout=5).close()
    with pytest.raises(AddressRefused):
        net.network().open("flip.example.com", 443, private=False, timeout=5)
    assert net.resolved == ["flip.example.com"] * 2
    assert net.connected == [(PUBLIC, 443)]
    server.close()


def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    tried = []

    def connect(address: str, port: int, timeout: float) -> socket.socket:
        tried.append(address)
        if address != "1.1.1.3":
            raise ConnectionRefusedError(111, "Connection refused")
        return socket.socket()

    network = Network(lambda *_: ["1.1.1.1", "1.1.1.2", "1.1.1.3"], connect)
    network.open("a.example.com", 443, private=False, timeout=5).close()
    assert tried == ["1.1.1.1", "1.1.1.2", "1.1.1.3"]
    network = Network(lambda *_: ["1.1.1.1"] * 1000, connect)
    with pytest.raises(FetchError, match=r"cannot connect to a\.example\.com port 443: Connection refused"):
        network.open("a.example.com", 443, private=False, timeout=5)
    assert len(tried) < 20


@pytest.mark.parametrize("answer", [[], ["no address"], ["1.2.3"]])
def test_resolvers_that_find_nothing(answer: list[str]) -> None:
    with pytest.raises(FetchError, match=r"cannot find a\.example\.com"):
        Network(lambda *_: answer).open("a.example.com", 443, private=False, timeout=5)


def test_names_that_cannot_be_resolved(net: Loopback) -> None:
    with pytest.raises(FetchError, match="its name does not resolve"):
        net.network().open("nowhere.example.com", 443, private=False, timeout=5)


def test_a_resolver_that_hangs_is_given_up() -> None:
    go_on = threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        go_on.wait(20)
        return [PUBLIC]

    near, far = socket.socketpair()
    dial = Network(resolve, lambda *_: near).dial("a.example.com", 443, private=False, timeout=5)
    with pytest.raises(TimeoutError):
        dial.result(0.01)
    assert dial.cancel()
    with pytest.raises(CancelledError):
        dial.result(5)
    go_on.set()
    far.settimeout(10)
    assert far.recv(1) == b""  # the connection that came too late is closed
    far.close()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "169.254.169.254", "::1", "localhost", "a.localhost", "localhost."]
)
def test_names_for_a_proxy_to_resolve(host: str) -> None:
    with pytest.raises(AddressRefused):
        check_name(host, private=False)
    check_name("example.com", private=False)
    check_name("10.0.0.1", private=True)
