"""How a long operation in one thread is ended from another."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from puna.errors import Interrupted


class Cancellation:
    """A request to stop, made at most once. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._lock = threading.Lock()
        self._ends: list[Callable[[], object]] = []

    def cancel(self) -> None:
        """Ask the operation to stop, and end what it waits for."""
        with self._lock:
            self._requested.set()
            ends = list(self._ends)
        for end in ends:
            end()

    def check(self) -> None:
        """Raises: Interrupted when the operation is to stop."""
        if self._requested.is_set():
            raise Interrupted("the operation was cancelled")

    def sleep(self, seconds: float) -> None:
        """Wait so long. Raises: Interrupted as soon as the operation is to stop."""
        self._requested.wait(seconds)
        self.check()

    @contextmanager
    def calling(self, end: Callable[[], object]) -> Iterator[None]:
        """Have `end` called, by whoever cancels, when that happens within the block.

        Raises:
            Interrupted: it has happened already.
        """
        with self._lock:
            self.check()
            self._ends.append(end)
        try:
            yield
        finally:
            with self._lock:
                self._ends.remove(end)
