"""Content-addressed files: `blobs/sha256-<hex>`.

A blob gets its name only after its content has been hashed and has reached the disk, by renaming a temporary
file of the same folder; so a name always means that content, whatever stops the program. Temporary files
carry names that are no digests, which Ollama's own start-up prune clears away.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from puna.errors import StoreError
from puna.store.digest import Digest

_READ_SIZE = 1 << 20


class BlobWriter:
    """A blob being written. Leave its `with` block without `commit` and nothing stays.

    Attributes:
        path: the temporary file, complete on disk after `flush`.
        size: bytes written so far.
    """

    def __init__(self, store: "BlobStore") -> None:
        self._store = store
        self._hash = hashlib.sha256()
        self.path = store.folder / f"sha256-{secrets.token_hex(8)}.tmp"
        self.size = 0
        self._file = open(self.path, "xb")  # noqa: SIM115 - closed by __exit__

    def write(self, data: bytes) -> None:
        """Append `data`. Raises: StoreError when the disk refuses it."""
        with _store_errors(self.path):
            self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def flush(self) -> Digest:
        """Bring what was written to the disk and return its digest; `path` may then be examined."""
        with _store_errors(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
        return Digest(self._hash.hexdigest())

    def commit(self, expected: Digest | None = None) -> Digest:
        """Give the content its name.

        Raises:
            StoreError: the content is not what `expected` says, or the disk refuses.
        """
        digest = self.flush()
        if expected is not None and digest != expected:
            raise StoreError(f"digest mismatch, expected {expected}, got {digest}")
        self._file.close()
        with _store_errors(self.path):
            if not self._store.verify(digest):
                os.replace(self.path, self._store.path(digest))
                _sync_folder(self._store.folder)
        return digest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        with suppress(FileNotFoundError):
            self.path.unlink()


class BlobStore:
    """The blobs of one store.

    Attributes:
        folder: where they lie; made with the first write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be."""
        return self.folder / digest.file_name

    def size(self, digest: Digest) -> int | None:
        """Bytes of the blob; None when there is none."""
        path = self.path(digest)
        return path.stat().st_size if path.is_file() else None

    def verify(self, digest: Digest) -> bool:
        """Whether the blob is there and its content hashes to its name.

        Raises:
            StoreError: it is there and cannot be read.
        """
        path = self.path(digest)
        if not path.is_file():
            return False
        with _store_errors(path), path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest.hex

    def read(self, digest: Digest, limit: int) -> bytes:
        """The content of a small blob.

        Raises:
            StoreError: it is missing, unreadable or longer than `limit` bytes.
        """
        path = self.path(digest)
        with _store_errors(path), path.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise StoreError(f"{path} is longer than the {limit} bytes it may have")
        return content

    def create(self, size: int = 0) -> BlobWriter:
        """A writer for a new blob of about `size` bytes.

        Raises:
            StoreError: the folder cannot be written, or has not that much room.
        """
        with _store_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
            if size > free:
                raise StoreError(
                    f"{self.folder} has {free} bytes free, but the model needs {size}; make room"
                )
            return BlobWriter(self)

    def add(self, chunks: Iterable[bytes]) -> Digest:
        """Store the content of `chunks`. Raises: StoreError."""
        with self.create() as writer:
            for chunk in chunks:
                writer.write(chunk)
            return writer.commit()


def read_chunks(path: Path) -> Iterator[bytes]:
    """The file's content in pieces of 1 MiB."""
    with path.open("rb") as file:
        while chunk := file.read(_READ_SIZE):
            yield chunk


@contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
