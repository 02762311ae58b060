"""How many streams are used, on networks made of numbers."""

import pytest

from puna.registry.pace import Pace


def settled(most: int, speed: "dict[int, float] | float", intervals: int = 60) -> list[int]:
    """The streams in use in each interval on a network that gives `speed` at so many streams."""
    pace = Pace(most)
    used = []
    for _ in range(intervals):
        used.append(pace.streams)
        pace.observe(speed * pace.streams if isinstance(speed, float) else speed[pace.streams])
    return used


def test_streams_are_added_while_each_brings_more() -> None:
    assert max(settled(8, 5e6)) == 8
    assert settled(8, 5e6)[:8] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert settled(8, 5e6)[-1] == 8


def test_a_stream_that_brings_nothing_is_taken_back() -> None:
    full = dict.fromkeys(range(1, 9), 1e9)
    assert settled(8, full)[:6] == [1, 2, 1, 1, 1, 1]
    assert sum(settled(8, full)) / 60 < 1.2


def test_a_network_that_three_streams_fill() -> None:
    assert settled(8, {1: 10.0, 2: 20.0, 3: 30.0, 4: 30.0, 5: 30.0})[5:12] == [3] * 7


def test_complaints_halve_the_streams() -> None:
    pace = Pace(8, streams=8)
    pace.slow_down()
    assert pace.streams == 4
    for _ in range(4):
        pace.slow_down()
    assert pace.streams == 1


@pytest.mark.parametrize(("rate", "expected"), [(0, 32), (10, 40), (1000, 256)])
def test_parts_take_some_seconds(rate: float, expected: int) -> None:
    assert Pace(8, rate=rate).part(32, 256) == expected
