"""Numbers as Ollama and Go print them."""

import pytest

from puna.humanize import (
    bytes_text,
    count_text,
    duration_seconds,
    duration_text,
    duration_words,
    moment_text,
    seconds_left_text,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 KB"),
        (1500, "1.5 KB"),
        (10_500, "10 KB"),
        (92871040, "92 MB"),
        (4700000000, "4.7 GB"),
        (2000000000000, "2 TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (999, "999"),
        (12000, "12K"),
        (134515008, "134.52M"),
        (2000000, "2M"),
        (8000000000, "8B"),
        (8030261248, "8.0B"),
        (1540000000, "1.5B"),
    ],
)
def test_parameter_counts(count: int, text: str) -> None:
    assert count_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (1e-09, "1ns"),
        (1.5e-06, "1.5µs"),
        (0.0125, "12.5ms"),
        (1, "1s"),
        (1.234567891, "1.234567891s"),
        (59.9, "59.9s"),
        (62.5, "1m2.5s"),
        (3600, "1h0m0s"),
        (7384.25, "2h3m4.25s"),
        (-0.5, "-500ms"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (4, "4s"), (65, "1m5s"), (7380, "2h3m")])
def test_waiting_times(seconds: float, text: str) -> None:
    assert seconds_left_text(seconds) == text


# The texts that Go's `time.ParseDuration` takes and refuses, with its nanoseconds.
@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("-0", 0),
        ("+5s", 5 * 10**9),
        ("1.5h", 5400 * 10**9),
        ("1h30m", 5400 * 10**9),
        (".5s", 5 * 10**8),
        ("5.s", 5 * 10**9),
        ("-2m", -120 * 10**9),
        ("300ms", 3 * 10**8),
        ("1us", 1000),
        ("1µs", 1000),
        ("1μs", 1000),
        ("7ns", 7),
        ("1h1h", 7200 * 10**9),
        ("100000h", 36 * 10**16),
        ("0.0000000001s", 0),
    ],
)
def test_durations_are_read(text: str, nanoseconds: int) -> None:
    assert round(duration_seconds(text) * 10**9) == nanoseconds


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "1",
            "1d",
            "s",
            ".s",
            ".",
            "+",
            "-",
            " 1s",
            "1s ",
            "1S",
            "١s",
            "1e3s",
            "1..5s",
            "1h-1m",
            "--1s",
        ),
        *("3000000h", "2562047h47m16.854775808s", "1" * 10_000 + "s", "9" * 20 + "h"),
    ],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        duration_seconds(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "Less than a second"),
        (0.99, "Less than a second"),
        (1.99, "1 second"),
        (2, "2 seconds"),
        (59.99, "59 seconds"),
        (60, "About a minute"),
        (119.9, "About a minute"),
        (3599.9, "59 minutes"),
        (3600, "About an hour"),
        (5399, "About an hour"),
        (5400, "2 hours"),
        (47.4 * 3600, "47 hours"),
        (47.5 * 3600, "2 days"),
        (335.4 * 3600, "13 days"),
        (335.6 * 3600, "2 weeks"),
        (1439 * 3600, "8 weeks"),
        (1440 * 3600, "2 months"),
        (17519 * 3600, "24 months"),
        (17520 * 3600, "2 years"),
        (26280 * 3600, "3 years"),
    ],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration_words(seconds) == text
    assert moment_text(10**9, 10**9 + seconds) == f"{text} ago"
    if seconds:
        assert moment_text(10**9 + seconds, 10**9) == f"{text} from now"


def test_moments_too_far_to_tell() -> None:
    year = 365 * 24 * 3600
    assert moment_text(20.5 * year, 0) == "20 years from now"
    assert moment_text(21 * year, 0) == "Forever"
    assert moment_text(0, 60 * year) == "60 years ago"
