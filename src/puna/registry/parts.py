"""The parts of a blob, shared out among threads: what waits, what is being fetched, and what has come."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from puna.registry.http import Response
from puna.registry.spans import Span, frontier, joined, missing

_SHARED_FROM = 8 << 20


@dataclass(slots=True, eq=False)
class Part:
    """A part that a thread is fetching. Its end moves nearer when another thread takes over the rest.

    Attributes:
        start: the first byte that the journal does not list yet.
        position: the next byte to come.
        end: the byte behind the last.
        failures: how many failures in a row there had been when it was taken.
        response: where it is being read from.
    """

    start: int
    position: int
    end: int
    failures: int = 0
    response: Response | None = None

    @property
    def remaining(self) -> int:
        """Bytes still to come."""
        return self.end - self.position


class Parts:
    """The state of one download, behind one lock.

    Attributes:
        size: bytes of the blob.
        received: bytes that have come, also of parts that are still being fetched.
        failures: in a row, without a byte between them.
        whole: the registry gives whole blobs only, so one thread reads it from the beginning.
    """

    def __init__(self, size: int, have: Iterable[Span]) -> None:
        self.size = size
        self.failures = 0
        self.whole = False
        self._have = joined(have)
        self.received = sum(span.size for span in self._have)
        self._active: list[Part] = []
        self._changed = threading.Condition()
        self._stopped = threading.Event()

    @property
    def complete(self) -> bool:
        """Whether every byte has come."""
        return frontier(self._have) >= self.size

    @property
    def stopped(self) -> bool:
        """Whether the threads should end."""
        return self._stopped.is_set()

    def take(self, size: int, most: int) -> Part | None:
        """A part of about `size` bytes: the first that waits, else half of the largest that is being fetched.

        Args:
            most: how many may be fetched at once; when there are as many, there is no part to take.
        """
        with self._changed:
            full = self.stopped or len(self._active) >= most
            span = None if full else self._next(size)
            if span is None:
                return None
            part = Part(span.start, span.start, span.end, self.failures)
            self._active.append(part)
            return part

    def begun(self, part: Part, response: Response) -> None:
        """Note where a part is read from, so that reading it can be ended."""
        with self._changed:
            part.response = response
            if self.stopped:
                response.abort()

    def arrived(self, part: Part, count: int) -> None:
        """Count bytes of a part that have been written to the file."""
        with self._changed:
            part.position += count
            self.received += count
            self.failures = 0

    def recorded(self, part: Part, position: int) -> None:
        """Note that the journal lists the part up to `position`, and tell who waits for it."""
        with self._changed:
            self._have = joined([*self._have, Span(part.start, position)])
            part.start = position
            self._changed.notify_all()

    def release(self, part: Part) -> None:
        """Stop fetching a part, finished or not; what has been recorded of it counts."""
        with self._changed:
            self._active.remove(part)
            self._changed.notify_all()

    def failed(self, part: Part) -> int:
        """Count a failure; how many there were in a row. Parts that fail together count as one."""
        with self._changed:
            if part.failures == self.failures:
                self.failures += 1
            return max(1, self.failures)

    def stop(self) -> None:
        """End the download now."""
        with self._changed:
            self._stopped.set()
            for part in self._active:
                if part.response is not None:
                    part.response.abort()
            self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait, unless the download ends before."""
        self._stopped.wait(seconds)

    def wait(self, seconds: float) -> None:
        """Wait until something has been recorded or released, or the time is over."""
        with self._changed:
            if not (self.complete or self.stopped):
                self._changed.wait(seconds)

    def wait_behind(self, position: int) -> int:
        """Wait until there are bytes from the beginning to beyond `position`; to where.

        The position itself when the download has ended before.
        """
        with self._changed:
            while (reached := frontier(self._have)) <= position and not self.stopped:
                self._changed.wait()
            return max(reached, position)

    def _next(self, size: int) -> Span | None:
        if self.whole:
            return None if self._active or self.complete else Span(frontier(self._have), self.size)
        taken = [Span(part.start, part.end) for part in self._active]
        waiting = missing([*self._have, *taken], self.size)
        if waiting:
            return Span(waiting[0].start, min(waiting[0].end, waiting[0].start + size))
        return self._half()

    def _half(self) -> Span | None:
        """The second half of the part with the most to come, taken from it; None when all are nearly done."""
        largest = max(self._active, key=lambda part: part.remaining, default=None)
        if largest is None or largest.remaining < 2 * _SHARED_FROM:
            return None
        middle, end = largest.position + largest.remaining // 2, largest.end
        largest.end = middle
        return Span(middle, end)
