"""Opening files that somebody names only if they are regular: a pipe or a device could keep one waiting."""

import errno
import os
import stat
from collections.abc import Callable

# Each exists on some systems only.
READ_WITHOUT_WAITING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def regular_only(refusal: Exception) -> Callable[[str, int], int]:
    """An `opener` for `open`, for reading: it never waits, and raises `refusal` for what is no regular file.

    For a folder it raises IsADirectoryError, as `open` does.
    """

    def opener(path: str, flags: int) -> int:
        descriptor = os.open(path, flags | READ_WITHOUT_WAITING)
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            return descriptor
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise refusal

    return opener
