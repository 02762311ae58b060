"""What interrupted operations leave behind, Ollama's among them, and how it is cleared away."""

import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from puna.store.files import store_errors
from puna.store.locks import is_locked, try_lock

LOCK_NAME = ".lock"

# Beside blobs: our own temporary and partial files, then Ollama's: parts of a download, a file being hashed.
_BLOB_REMAINS = re.compile(
    r"sha256-[0-9a-f]+\.(tmp|partial(\.(journal|tmp))?)|sha256-[0-9a-f]{64}-partial(-[0-9]+)?|sha256-[0-9]{1,20}",
    re.ASCII,
)


def blob_remains(folder: Path) -> Iterator[Path]:
    """The files among the blobs that are none and that an interrupted operation has left."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _BLOB_REMAINS.fullmatch(path.name) and _is_regular(path):
            yield path


def _is_regular(path: Path) -> bool:
    with suppress(FileNotFoundError):
        return stat.S_ISREG(path.lstat().st_mode)
    return False


def changed_before(path: Path, moment: float) -> bool:
    """Whether the file was last changed before `moment`, in seconds since 1970."""
    with suppress(FileNotFoundError):
        return path.lstat().st_mtime <= moment
    return False


def remove_remains(path: Path) -> int | None:
    """Delete a file, or a folder with its `LOCK_NAME`, that nobody holds a lock on.

    Returns:
        The bytes freed; None when it stays.

    Raises:
        StoreError: the disk refuses.
    """
    with store_errors(path), suppress(FileNotFoundError):
        if path.is_dir():
            if (path / LOCK_NAME).exists() and is_locked(path / LOCK_NAME):
                return None
            size = sum(inner.lstat().st_size for inner in path.rglob("*"))
            shutil.rmtree(path)
            return size
        # A journal, finished or not, belongs to the partial file beside it; that is what a download locks.
        partial = path.with_suffix("")
        with (partial if partial.suffix == ".partial" and partial.is_file() else path).open("rb") as file:
            # The lock is held until the name is gone, so that nobody begins to write to a file without one.
            if try_lock(file):
                size = path.lstat().st_size
                path.unlink()
                return size
    return None
