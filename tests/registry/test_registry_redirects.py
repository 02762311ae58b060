"""Where a registry may send a client: A12, A14, A26 as far as the text of an address tells."""

from dataclasses import replace

import pytest

from puna.errors import AddressRefused
from puna.registry.redirects import MOST_HOPS, Hop, next_hop
from puna.registry.registries import registry_for

SECURE = registry_for("registry.example.com", {})
PLAIN = registry_for("registry.example.com:5000", {}, insecure=True)
BLOB = "https://registry.example.com/v2/library/m/blobs/sha256:0"
PLAIN_BLOB = "http://registry.example.com:5000/v2/library/m/blobs/sha256:0"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("https://cdn.example.net/x?sig=1#f", Hop("https://cdn.example.net/x?sig=1", False)),
        ("//cdn.example.net/x", Hop("https://cdn.example.net/x", False)),
        ("/elsewhere", Hop("https://registry.example.com/elsewhere", True)),
        ("other", Hop("https://registry.example.com/v2/library/m/blobs/other", True)),
        ("?a=b", Hop("https://registry.example.com/v2/library/m/blobs/sha256:0?a=b", True)),
        ("https://registry.example.com:443/x", Hop("https://registry.example.com/x", True)),
        ("HTTPS://REGISTRY.example.com/x", Hop("https://registry.example.com/x", True)),
        ("https://registry.example.com:8443/x", Hop("https://registry.example.com:8443/x", False)),
        ("https://registry.example.com./x", Hop("https://registry.example.com./x", False)),
    ],
)
def test_followed(location: str, expected: Hop) -> None:
    assert next_hop(BLOB, location, SECURE) == expected


@pytest.mark.parametrize(
    "location",
    [
        None,
        "",
        "http://registry.example.com/x",
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:6379/",
        "http://[::ffff:127.0.0.1]/",
        "http://2130706433/",
        "https://2130706433/",
        "https://0x7f.1/",
        "http://localtest.me/",
        "gopher://a/",
        "file:///etc/passwd",
        "data:text/plain,x",
        "javascript:alert(1)",
        "https://user:pass@cdn.example.net/",
        "https://registry.example.com\\@evil.example.net/",
        "//evil.example.net:99999/",
        "https://cdn.example.net/a b",
        "https://cdn.example.net/\r\nX: y",
        "\thttps://cdn.example.net/",
        "https:///x",
        "http://[::1",
        "https://cdn.example.net/" + "x" * 20000,
    ],
)
def test_refused(location: str | None) -> None:
    with pytest.raises(AddressRefused) as caught:
        next_hop(BLOB, location, SECURE)
    assert "registry.example.com" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_plain_http_stays_on_its_host() -> None:
    same = next_hop(PLAIN_BLOB, "/x", PLAIN)
    assert same == Hop("http://registry.example.com:5000/x", True)
    assert next_hop(PLAIN_BLOB, "http://registry.example.com:9000/x", PLAIN).same_origin is False
    assert next_hop(PLAIN_BLOB, "https://cdn.example.net/x", PLAIN).same_origin is False
    with pytest.raises(AddressRefused, match="insecure protocol http"):
        next_hop(PLAIN_BLOB, "http://cdn.example.net/x", PLAIN)
    with pytest.raises(AddressRefused, match="insecure protocol http"):
        next_hop(PLAIN_BLOB, "/x", replace(PLAIN, origin=SECURE.origin))


def test_hops_are_counted() -> None:
    next_hop(BLOB, "/x", SECURE, MOST_HOPS - 1)
    with pytest.raises(AddressRefused, match="more than 10 times"):
        next_hop(BLOB, "/x", SECURE, MOST_HOPS)
