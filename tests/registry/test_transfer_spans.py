"""Sets of spans, compared with sets of bytes."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from puna.registry.spans import Span, frontier, joined, missing

SIZE = 40
SPANS = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda ends: Span(*sorted(ends))))


def numbers(spans: list[Span]) -> set[int]:
    return {number for span in spans for number in range(span.start, span.end)}


@given(SPANS)
def test_joined_spans_hold_the_same_bytes_and_do_not_touch(spans: list[Span]) -> None:
    whole = joined(spans)
    assert numbers(whole) == numbers(spans)
    assert all(one.end < other.start for one, other in pairwise(whole))
    assert all(span.size > 0 for span in whole)


@given(SPANS, st.integers(0, SIZE))
def test_what_is_missing_is_the_rest(spans: list[Span], size: int) -> None:
    gaps = missing(spans, size)
    assert numbers(gaps) == {*range(size)} - numbers(spans)
    assert joined(gaps) == gaps


@given(SPANS)
def test_the_frontier_is_the_first_byte_that_is_missing(spans: list[Span]) -> None:
    have = numbers(spans)
    assert frontier(spans) == next(number for number in range(SIZE + 1) if number not in have)
