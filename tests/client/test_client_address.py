"""The forms of an address, with the cases of Ollama's own tests."""

import pytest

from puna.client.address import is_this_machine, parse_address
from puna.errors import InvalidOption


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        ("1.2.3.4:1234", "http://1.2.3.4:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("example.com", "http://example.com:11434"),
        ("example.com:1234", "http://example.com:1234"),
        ("http://1.2.3.4", "http://1.2.3.4:80"),
        ("https://1.2.3.4", "https://1.2.3.4:443"),
        ("HTTPS://1.2.3.4:4321", "https://1.2.3.4:4321"),
        ("https://example.com/ollama", "https://example.com:443/ollama"),
        ("https://example.com:1234/a/b/", "https://example.com:1234/a/b"),
        ("example.com:1234/", "http://example.com:1234"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:1337", "http://[::1]:1337"),
        ("::1", "http://[::1]:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::]:80", "http://[::1]:80"),
        ("ollama.com", "https://ollama.com:443"),
        ("  example.com  ", "http://example.com:11434"),
    ],
)
def test_addresses(text: str, url: str) -> None:
    assert parse_address(text).url == url


@pytest.mark.parametrize("text", ["ftp://x", "a b", "http://user@x", "x/?q", "x/#", "http://x/\r\nA: b"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidOption, match="this is no address of a server: "):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "here"),
    [
        ("", True),
        ("localhost:1", True),
        ("127.1.2.3", True),
        ("[::1]", True),
        ("0.0.0.0", True),
        (":11434", True),
        ("192.168.1.7", False),
        ("gpu-box", False),
        ("localhost.example.com", False),
    ],
)
def test_whether_it_is_this_machine(text: str, here: bool) -> None:
    assert is_this_machine(parse_address(text)) is here
