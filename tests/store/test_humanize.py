"""Numbers as Ollama and Go print them."""

import pytest

from puna.humanize import bytes_text, count_text, duration_text, seconds_left_text


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
