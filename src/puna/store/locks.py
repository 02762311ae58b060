"""Advisory file locks, held by one open file among all threads and processes.

A lock goes with its holder: when the process ends, however it ends, the operating system lets go of it.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from puna.errors import StoreError
from puna.store.files import store_errors

_TRIES = 10_000

if sys.platform == "win32":
    import msvcrt

    def _take(file: IO[bytes], wait: bool) -> bool:
        try:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except OSError:
            if wait:
                raise
            return False
        return True

else:
    import fcntl

    def _take(file: IO[bytes], wait: bool) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True


def try_lock(file: IO[bytes]) -> bool:
    """Lock an open file; False when another holds it. Closing the file lets go. Raises: StoreError."""
    try:
        return _take(file, wait=False)
    except OSError as error:
        raise StoreError(f"{file.name} cannot be locked: {error.strerror or error}") from error


def is_locked(path: Path) -> bool:
    """Whether somebody holds a lock on the file. Raises: StoreError, FileNotFoundError."""
    with path.open("rb") as file:
        return not try_lock(file)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock on `path` for the time of the block; waits for others.

    The file exists while the lock is held or waited for, so that nothing is left of it.

    Raises:
        StoreError: the file cannot be made or locked.
    """
    with store_errors(path):
        file = _locked_file(path)
    with file:
        try:
            yield
        finally:
            with suppress(OSError):  # Windows keeps a file that is open; the next holder takes it as it is
                path.unlink()


def _locked_file(path: Path) -> IO[bytes]:
    for _ in range(_TRIES):
        # The folder, or the file, may be taken away by another while this one makes or waits for it.
        with suppress(FileNotFoundError), ExitStack() as stack:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("ab"))
            _take(file, wait=True)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                stack.pop_all()
                return file
    raise StoreError(f"{path} cannot be locked: it is taken away again and again")
