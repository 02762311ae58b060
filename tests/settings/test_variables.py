"""What texts of settings mean: Ollama's own cases, and what Puna adds."""

import math

import pytest

from puna.variables import Endpoint, clean, endpoint, seconds, size, stall_seconds, truth, unsigned, words


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        (":1234", "http://:1234"),
        ("1.2.3.4:1234", "http://1.2.3.4:1234"),
        ("example.com", "http://example.com:11434"),
        ("example.com:1234", "http://example.com:1234"),
        (":0", "http://:0"),
        (":66000", "http://:11434"),
        (":-1", "http://:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::]", "http://[::]:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]:1337", "http://[::1]:1337"),
        ("  1.2.3.4  ", "http://1.2.3.4:11434"),
        ('"1.2.3.4"', "http://1.2.3.4:11434"),
        ('" 1.2.3.4 "', None),
        ("'1.2.3.4'", "http://1.2.3.4:11434"),
        ("http://1.2.3.4", "http://1.2.3.4:80"),
        ("http://1.2.3.4:4321", "http://1.2.3.4:4321"),
        ("https://1.2.3.4", "https://1.2.3.4:443"),
        ("https://1.2.3.4:4321", "https://1.2.3.4:4321"),
        ("https://example.com/ollama", "https://example.com:443/ollama"),
        ("example.com/a/b/", "http://example.com:11434/a/b"),
        ("ollama.com", "https://ollama.com:443"),
        ("HTTP://h:x", "http://h:80"),
        ("0.0.0.0:65536", "http://0.0.0.0:11434"),
    ],
)
def test_hosts(text: str, url: str | None) -> None:
    found = endpoint(clean(text))
    assert url is None or found.url == url


def test_other_schemes_are_no_hosts() -> None:
    with pytest.raises(ValueError, match="scheme"):
        endpoint("ftp://x")
    assert endpoint("") == Endpoint()


@pytest.mark.parametrize("text", ["0", "f", "F", "false", "FALSE", "False"])
def test_what_is_false(text: str) -> None:
    assert truth(text) is False


@pytest.mark.parametrize("text", ["1", "t", "true", "TRUE", "yes", "no", "off", "2", "random"])
def test_all_else_is_true(text: str) -> None:
    assert truth(text) is True


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1s", 1), ("1m", 60), ("1h", 3600), ("5m0s", 300), ("1h2m3s", 3723), ("0", 0), ("60", 60)),
        *(("3600", 3600), ("-0", 0), ("-1", math.inf), ("-1m", math.inf), ("-24h", math.inf), ("1.5s", 1.5)),
    ],
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == value
    assert math.copysign(1, seconds(text)) == 1


@pytest.mark.parametrize("text", ["", " ", "???", "1d", "1y", "1w", "1.5", "1e3", "s", "\u0663"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        seconds(text)


def test_stalls() -> None:
    assert [stall_seconds(text) for text in ("0", "-1", "5m", "42")] == [math.inf, math.inf, 300, 42]


def test_numbers() -> None:
    assert [unsigned(text) for text in ("0", "007", "512")] == [0, 7, 512]
    for text in ("-1", "1.0", "", "0x1", "1_0", "\u0663", "9" * 30):
        with pytest.raises(ValueError, match="whole number"):
            unsigned(text)


def test_sizes() -> None:
    assert [size(text) for text in ("0", "1024", "64K", "100MiB", "2 G", "1tb")] == [
        *(0, 1024, 64 << 10, 100 << 20, 2 << 30, 1 << 40)
    ]
    for text in ("", "-1", "1.5G", "M", "1X"):
        with pytest.raises(ValueError, match="bytes"):
            size(text)


def test_lists_and_quotes() -> None:
    assert words("a, b,,c ,") == ("a", "b", "c")
    assert [clean(text) for text in (' "x" ', "'x'", "\"' x '\"", 'x"y')] == ["x", "x", " x ", 'x"y']
