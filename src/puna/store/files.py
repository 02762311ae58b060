"""Writing to the disk so that what is there is whole, whenever the program or the machine stops."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from puna.errors import OutOfSpace, StoreError
from puna.regular import READ_WITHOUT_WAITING, regular_only

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


def random_digits() -> str:
    """Sixteen hexadecimal digits, for the name of a temporary file."""
    return os.urandom(8).hex()


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turns the operating system's errors in the block into StoreError, or OutOfSpace, about `path`."""
    try:
        yield
    except OSError as error:
        kind = OutOfSpace if error.errno in _NO_ROOM else StoreError
        raise kind(f"{path}: {error.strerror or error}") from error


def open_regular(path: Path) -> BinaryIO:
    """The open file; opening it never waits. Raises: OSError, and StoreError for a pipe or a device."""
    return open(path, "rb", opener=regular_only(StoreError(f"{path} is not a regular file")))


def read_regular(path: str, limit: int) -> tuple[bytes, os.stat_result]:
    """What is in a small file, and its facts; of a file that is longer, one byte more than `limit`.

    A store has a thousand such files, and listing it reads them all, so this is the plain way.

    Raises:
        StoreError: it cannot be read, or is a pipe or a device.
    """
    try:
        handle = os.open(path, READ_WITHOUT_WAITING)
        try:
            info = os.fstat(handle)
            if not stat.S_ISREG(info.st_mode):
                raise StoreError(f"{path} is not a regular file")
            return os.read(handle, min(info.st_size, limit) + 1), info
        finally:
            os.close(handle)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from error


def make_folders(folder: Path) -> None:
    """Make a folder and those above it; each new one is on the disk when this returns. Raises: OSError."""
    if folder.is_dir():
        return
    make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk. Raises: OSError."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems have no such thing.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name, and replaces another of that name, when the block ends without an error.

    Raises:
        OutOfSpace: the disk is full.
        StoreError: the file cannot be written.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:64]}.{random_digits()}")
    with store_errors(path):
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
            sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and bring it to the disk. Raises: OSError, FileExistsError among them."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
