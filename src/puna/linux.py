"""Calls of Linux that Python has no name for. On other systems they do nothing, and say so."""

import ctypes
import math
import mmap
import signal
import sys

_PR_SET_PDEATHSIG = 1
_MADV_POPULATE_WRITE = 23


def die_with_parent() -> bool:
    """Has the system kill this process when the thread that started it ends: prctl(2).

    It reaches a process that is stopped, too, which hears nothing else. Returns whether it will.
    """
    if sys.platform != "linux":
        return False
    return int(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)) == 0


def own_memory_limit() -> float:
    """How many bytes this process may have that are not mapped from files: setrlimit(2); maybe infinite."""
    if sys.platform != "linux":
        return math.inf
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return math.inf if limit == resource.RLIM_INFINITY else limit


def prefer_large_pages(address: int, size: int) -> bool:
    """Asks for large pages where memory that was not touched yet is touched: madvise(2).

    A step of a model reads all of its weights, more small pages than a processor can look up quickly.
    Returns whether the system knows them.
    """
    if sys.platform != "linux":
        return False
    begin = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE - begin
    return length > 0 and _madvise(begin, length, mmap.MADV_HUGEPAGE)


def populate(address: int, size: int) -> bool:
    """Makes pages of memory the process's own, with what they hold: madvise(2), since Linux 5.14.

    The module `mmap` would hold the interpreter's lock meanwhile. Returns whether they are.
    """
    if sys.platform != "linux":
        return False
    return _madvise(address, size, _MADV_POPULATE_WRITE)


def _madvise(address: int, size: int, advice: int) -> bool:
    madvise = ctypes.CDLL(None).madvise
    return int(madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), advice)) == 0
