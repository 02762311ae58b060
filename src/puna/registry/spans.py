"""Stretches of a file, and sets of them: what has come of a blob, and what is missing."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """The bytes from `start` to before `end`."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start


def joined(spans: Iterable[Span]) -> list[Span]:
    """The same bytes in order, in as few spans as can be; empty ones are left out."""
    found: list[Span] = []
    for span in sorted(span for span in spans if span.size > 0):
        if found and span.start <= found[-1].end:
            found[-1] = Span(found[-1].start, max(found[-1].end, span.end))
        else:
            found.append(span)
    return found


def missing(spans: Iterable[Span], size: int) -> list[Span]:
    """What `spans` leaves out of the first `size` bytes, in order."""
    return list(_gaps(joined(spans), size))


def frontier(spans: Iterable[Span]) -> int:
    """How many bytes there are from the beginning without a gap."""
    whole = joined(spans)
    return whole[0].end if whole and whole[0].start <= 0 else 0


def _gaps(whole: list[Span], size: int) -> Iterator[Span]:
    position = 0
    for span in whole:
        if span.start >= size:
            break
        if span.start > position:
            yield Span(position, span.start)
        position = max(position, span.end)
    if position < size:
        yield Span(position, size)
