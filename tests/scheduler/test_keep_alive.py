"""`keep_alive` as clients write it. The texts of errors are those of Go 1.24's time.ParseDuration."""

import math

import pytest

from puna.errors import InvalidOption
from puna.scheduler.keep_alive import parse_keep_alive


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (60, 60.0),
        (1.5, 1.5),
        (-1, math.inf),
        (-0.5, math.inf),
        (1e308, 1e308),
        (10**400, math.inf),
        (math.inf, math.inf),
        ("0", 0.0),
        ("-0", 0.0),
        ("10m", 600.0),
        ("24h", 86400.0),
        ("1h30m5.5s", 5405.5),
        ("+5s", 5.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("100ms", 0.1),
        ("2µs", 2e-6),
        ("-1m", math.inf),
        ("-1ns", math.inf),
    ],
)
def test_durations(value: object, seconds: float) -> None:
    assert parse_keep_alive(value) == seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("60", 'time: missing unit in duration "60"'),
        ("-60", 'time: missing unit in duration "-60"'),
        ("1h30", 'time: missing unit in duration "1h30"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("5 m", 'time: unknown unit " m" in duration "5 m"'),
        ("1h2x3s", 'time: unknown unit "x" in duration "1h2x3s"'),
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        ("forever", 'time: invalid duration "forever"'),
        (".s", 'time: invalid duration ".s"'),
        (" 5m", 'time: invalid duration " 5m"'),
        ("9999999999999h", 'time: invalid duration "9999999999999h"'),
        ('5"', 'time: unknown unit "\\"" in duration "5\\""'),
        ("5ü", 'time: unknown unit "\\xc3\\xbc" in duration "5\\xc3\\xbc"'),
        (True, "Unsupported type: 'bool'"),
        ([5], "Unsupported type: '[]interface {}'"),
        ({"seconds": 5}, "Unsupported type: 'map[string]interface {}'"),
        (None, "Unsupported type: '<nil>'"),
    ],
)
def test_faults(value: object, text: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_keep_alive(value)
    assert str(caught.value) == text


@pytest.mark.parametrize("text", ["1" * 10**6, "1." * 10**5, "h" * 10**6, "1h" * 10**5, "\udcff" * 1000])
def test_long_and_odd_texts_are_answered_at_once(text: str) -> None:
    try:
        assert parse_keep_alive(text) >= 0
    except InvalidOption as error:
        assert len(str(error)) < 2000
