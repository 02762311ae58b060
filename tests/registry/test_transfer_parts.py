"""Parts of a blob shared out among threads."""

import threading

from puna.registry.parts import Parts
from puna.registry.spans import Span

MB = 1 << 20


def fetched(parts: Parts, part_size: int, most: int = 8) -> Span | None:
    """Take a part, and have all of it come."""
    part = parts.take(part_size, most)
    if part is None:
        return None
    span = Span(part.position, part.end)
    parts.arrived(part, part.remaining)
    parts.recorded(part, part.position)
    parts.release(part)
    return span


def test_parts_come_in_order_and_leave_out_what_there_is() -> None:
    parts = Parts(100, [Span(30, 50)])
    spans = []
    while (span := fetched(parts, 20)) is not None:
        spans.append(span)
    assert spans == [Span(0, 20), Span(20, 30), Span(50, 70), Span(70, 90), Span(90, 100)]
    assert parts.complete
    assert parts.received == 100


def test_two_threads_never_have_the_same_bytes() -> None:
    parts = Parts(100, [])
    one, other = parts.take(20, 8), parts.take(20, 8)
    assert one and other
    assert (one.start, one.end, other.start, other.end) == (0, 20, 20, 40)


def test_what_did_not_come_is_taken_again() -> None:
    parts = Parts(100, [])
    part = parts.take(50, 8)
    assert part
    parts.arrived(part, 10)
    parts.recorded(part, 10)
    parts.release(part)
    assert parts.received == 10
    assert fetched(parts, 50) == Span(10, 60)


def test_a_thread_without_work_takes_half_of_the_largest_part() -> None:
    parts = Parts(64 * MB, [])
    large = parts.take(64 * MB, 8)
    assert large
    parts.arrived(large, 4 * MB)
    taken = parts.take(64 * MB, 8)
    assert taken
    assert (large.end, taken.start, taken.end) == (34 * MB, 34 * MB, 64 * MB)
    small = Parts(MB, [])
    assert small.take(MB, 8)
    assert small.take(MB, 8) is None


def test_no_more_parts_than_streams() -> None:
    parts = Parts(100, [])
    assert parts.take(10, 1)
    assert parts.take(10, 1) is None


def test_a_registry_without_ranges_has_one_reader() -> None:
    parts = Parts(100, [Span(0, 30)])
    parts.whole = True
    part = parts.take(10, 8)
    assert part
    assert (part.position, part.end) == (30, 100)
    assert parts.take(10, 8) is None


def test_parts_that_fail_together_count_once() -> None:
    parts = Parts(100, [])
    first, second = parts.take(10, 8), parts.take(10, 8)
    assert first and second
    assert (parts.failed(first), parts.failed(second)) == (1, 1)
    third = parts.take(10, 8)
    assert third
    assert parts.failed(third) == 2
    parts.arrived(third, 1)
    assert parts.failures == 0


def test_who_waits_is_told_of_what_comes_and_of_the_end() -> None:
    parts = Parts(100, [])
    reached: list[int] = []

    def follow() -> None:
        position = 0
        while (position := parts.wait_behind(position)) not in reached:
            reached.append(position)

    follower = threading.Thread(target=follow)
    follower.start()
    assert fetched(parts, 60) == Span(0, 60)
    while not reached:
        parts.wait(0.01)
    parts.stop()
    follower.join()
    assert reached == [60]
    assert parts.take(10, 8) is None
