"""What running operations rely on, so that nobody deletes it.

A blob is safe when a manifest names it. Between its writing, or its being found, and the writing of that
manifest it is kept by a pin: a line in a file of `.puna/pins` that the operation holds a lock on. Pins are
added, and blobs deleted, under the store's lock only. The file of a process that has died is unlocked, and so
counts for nothing.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from puna.store.digest import Digest
from puna.store.files import random_digits, store_errors
from puna.store.locks import is_locked, try_lock


@contextmanager
def pin_file(folder: Path) -> Iterator[BinaryIO]:
    """A locked file for an operation's pins, gone after the block. Enter it under the store's lock.

    Raises:
        StoreError: it cannot be made or locked.
    """
    path = folder / random_digits()
    with store_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("xb")
    try:
        try_lock(file)
        yield file
    finally:
        with suppress(OSError):  # what a full disk has not taken, `add_pins` has told of
            file.close()
        with suppress(FileNotFoundError):
            path.unlink()


def add_pins(file: BinaryIO, digests: Iterable[Digest]) -> None:
    """Add digests to an operation's pins. Call it under the store's lock. Raises: StoreError."""
    with store_errors(Path(file.name)):
        file.write("".join(f"{digest.hex}\n" for digest in digests).encode())
        file.flush()


def live_pins(folder: Path) -> set[Digest]:
    """What running operations have pinned. Call it under the store's lock, for it clears away dead files.

    Raises:
        StoreError: a file of pins cannot be read.
    """
    found: set[Digest] = set()
    for path in folder.iterdir() if folder.is_dir() else ():
        with store_errors(path), suppress(FileNotFoundError):
            if is_locked(path):
                found.update(Digest(line) for line in path.read_text("ascii").split())
            else:
                path.unlink()
    return found
