"""The one URL parser."""

import ipaddress
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.errors import AddressRefused
from puna.registry.urls import Origin, parse_authority, parse_url


@pytest.mark.parametrize(
    ("text", "origin", "target"),
    [
        ("https://registry.example.com", Origin("https", "registry.example.com", 443), "/"),
        ("HTTPS://Registry.EXAMPLE.com:443/v2/", Origin("https", "registry.example.com", 443), "/v2/"),
        ("http://a:5000/x?y=1&z=%2F#part", Origin("http", "a", 5000), "/x?y=1&z=%2F"),
        ("http://127.0.0.1/", Origin("http", "127.0.0.1", 80), "/"),
        ("https://[::1]:8443/", Origin("https", "::1", 8443), "/"),
        ("https://[0:0::1]/", Origin("https", "::1", 443), "/"),
        ("https://my_host.internal./", Origin("https", "my_host.internal.", 443), "/"),
        ("https://a?b", Origin("https", "a", 443), "/?b"),
        ("http://169.254.169.254#@allowed.com", Origin("http", "169.254.169.254", 80), "/"),
    ],
)
def test_addresses(text: str, origin: Origin, target: str) -> None:
    address = parse_url(text)
    assert (address.origin, address.target) == (origin, target)
    assert parse_url(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "registry.example.com",
        "//registry.example.com/",
        "ftp://a/",
        "gopher://a/",
        "file:///etc/passwd",
        "https:///x",
        "https://",
        "https://user@a/",
        "https://user:secret@a/",
        "http://allowed.com\\@169.254.169.254/",
        "http://allowed.com%00.evil/",
        "http://a b/",
        "http://a\tb/",
        "http://a/\r\nHost: b",
        "http://a\n/",
        "http://例え/",
        "http://a。b/",
        "https://a:/",
        "https://a:0/",
        "https://a:65536/",
        "https://a:4_4/",
        "https://a:-1/",
        "https://a:b:c/",
        "https://[::1/",
        "https://[fe80::1%25eth0]/",
        "https://[127.0.0.1]/",
        "https://a..b/",
        "https://.a/",
        "https://./",
        "https://" + "a" * 64 + "/",
        "https://" + "a." * 130 + "/",
        "https://a/" + "x" * 20000,
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0x7f000001/",
        "http://0/",
        "http://127.1/",
        "http://0177.0.0.1/",
        "http://127.0.0.1./",
        "http://1.2.3.4.5/",
        "http://256.1.1.1/",
        "http://a.0x/",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(AddressRefused) as caught:
        parse_url(text)
    assert len(str(caught.value)) < 300
    assert "secret" not in str(caught.value)


@given(st.text(max_size=60) | st.from_regex(r"https?://[^/]{0,30}(/.{0,20})?", fullmatch=True))
def test_what_is_taken_reads_the_same_for_others(text: str) -> None:
    try:
        address = parse_url(text)
    except AddressRefused:
        return
    parts = urlsplit(str(address))
    assert (parts.scheme, parts.username, parts.fragment) == (address.origin.scheme, None, "")
    assert parts.hostname == address.origin.host
    assert (parts.port or {"http": 80, "https": 443}[parts.scheme]) == address.origin.port
    assert parse_url(str(address)) == address


@given(st.integers(0, 2**32 - 1))
def test_only_four_decimal_numbers_are_an_ipv4_address(number: int) -> None:
    text = str(ipaddress.IPv4Address(number))
    assert parse_authority("https", text).host == text
    for odd in (str(number), hex(number), f"{number >> 24}.{number & 0xFFFFFF}", "0" + text):
        with pytest.raises(AddressRefused):
            parse_authority("https", odd)
