"""Zeroed memory of the CPU that costs its time while others work.

A cache is large, and a system fills pages with zeros when they are first touched: half a second for a
gigabyte on a virtual machine. Here a thread of the lowest priority touches them, and a model answers
meanwhile. So what is planned for is taken soon, and does not look free to the next model.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading

import numpy as np

from puna.linux import populate, prefer_large_pages

_AT_ONCE = 32 << 20
_LOWEST_PRIORITY = 19


def zeroed(size: int) -> mmap.mmap:
    """Memory of its own, full of zeros; freed with its last reference. Raises: OSError if there is none."""
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON)
    # Large pages are filled four times as fast, too.
    prefer_large_pages(address(memory), size)
    return memory


def address(memory: mmap.mmap) -> int:
    """Where it lies; a multiple of the page size."""
    return int(np.frombuffer(memory, np.uint8).ctypes.data)


class Toucher:
    """A thread that touches memory, as long as somebody wants it."""

    def __init__(self) -> None:
        self._waiting: list[mmap.mmap] = []
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False

    def touch(self, memory: mmap.mmap) -> None:
        """Touches all of it, some time soon; does nothing where the system has no way to."""
        if sys.platform != "linux":
            return
        with self._lock:
            self._waiting.append(memory)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="pages", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Leaves the rest as it is."""
        self._closed = True
        thread = self._thread
        if thread is not None:
            thread.join()

    def _next(self) -> mmap.mmap | None:
        with self._lock:
            if self._closed or not self._waiting:
                self._thread = None
                return None
            return self._waiting.pop(0)

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        while memory := self._next():
            begin, size = address(memory), len(memory)
            for offset in range(0, size, _AT_ONCE):
                if self._closed or not populate(begin + offset, min(_AT_ONCE, size - offset)):
                    break
