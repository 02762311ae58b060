"""Content-addressed files: `blobs/sha256-<hex>`.

A blob gets its name only after its content has been hashed and has reached the disk, by renaming a temporary
file of the same folder; so a name means that content, whatever stops the program. Files that others may have
put there are hashed once before they are trusted, and again when they have changed since.
"""

import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from puna.errors import DigestMismatch, OutOfSpace, StoreError
from puna.humanize import bytes_text
from puna.store.digest import Digest
from puna.store.files import make_folders, open_regular, random_digits, store_errors, sync_folder
from puna.store.locks import try_lock
from puna.store.remains import blob_remains, changed_before

_READ_SIZE = 1 << 20
_FICLONE = 0x40049409  # ioctl of Linux: share the blocks of another file (`man 2 ioctl_ficlone`)
TEMPORARY_SUFFIX = ".tmp"
PARTIAL_SUFFIX = ".partial"

Pin = Callable[[Digest], None]
"""Told of a digest before the blob of that name appears, so that it can be protected."""

Seen = Callable[[int], None]
"""Told how many bytes of a file have been read."""


class BlobStore:
    """The blobs of one store.

    Attributes:
        folder: where they lie; made with the first write.
        records: the folder of the notes on which blobs have been hashed: `<size> <mtime ns> <inode>`.
    """

    def __init__(self, folder: Path, records: Path) -> None:
        self.folder = folder
        self.records = records

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be."""
        return self.folder / digest.file_name

    def partial_path(self, digest: Digest) -> Path:
        """Where the blob's content is gathered while it is fetched."""
        return self.folder / (digest.file_name + PARTIAL_SUFFIX)

    def size(self, digest: Digest) -> int | None:
        """Bytes of the blob; None when there is none. Raises: StoreError."""
        path = self.path(digest)
        with store_errors(path), suppress(FileNotFoundError):
            info = path.stat()
            return info.st_size if stat.S_ISREG(info.st_mode) else None
        return None

    def verify(self, digest: Digest, seen: Seen | None = None) -> bool:
        """Whether the blob is there and its content, read now, hashes to its name.

        Args:
            seen: told the number of bytes after each piece that was read.

        Raises:
            StoreError: it is there and cannot be read.
        """
        path = self.path(digest)
        if self.size(digest) is None:
            return False
        with store_errors(path):
            before = path.stat()
            right = _hash_file(path, seen) == digest
            if right:
                self._record(digest, before)
            else:
                self._record_path(digest).unlink(missing_ok=True)
        return right

    def verified(self, digest: Digest) -> bool:
        """Whether the blob is there with the right content: hashed once, and unchanged since.

        Raises:
            StoreError: it is there and cannot be read.
        """
        with suppress(OSError, UnicodeDecodeError):
            if self._record_path(digest).read_text() == _note(self.path(digest).stat()):
                return True
        return self.verify(digest)

    def read(self, digest: Digest, limit: int) -> bytes:
        """The content of a small blob.

        Raises:
            StoreError: it is missing, unreadable or longer than `limit` bytes.
        """
        path = self.path(digest)
        with store_errors(path), open_regular(path) as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise StoreError(f"{path} is longer than the {limit} bytes it may have")
        return content

    def make_room(self, size: int) -> None:
        """Make the folder, if need be, and see that `size` bytes fit.

        Raises:
            OutOfSpace: they do not.
            StoreError: the folder cannot be made.
        """
        with store_errors(self.folder):
            make_folders(self.folder)
            free = shutil.disk_usage(self.folder).free
        if size > free:
            wanted = f"{bytes_text(free)} free, but the model needs {bytes_text(size)}"
            raise OutOfSpace(f"not enough disk space: {self.folder} has {wanted}; make room")

    def create(self, size: int, pin: Pin) -> "BlobWriter":
        """A writer for a new blob of about `size` bytes.

        Raises:
            OutOfSpace: the disk has not that much room.
            StoreError: the folder cannot be written.
        """
        self.make_room(size)
        with store_errors(self.folder):
            return BlobWriter(self, pin)

    def adopt(self, source: Path, pin: Pin, seen: Seen | None = None) -> Digest:
        """Make a blob of a file that is on this disk: sharing its blocks, else as a second name, else a copy.

        A second name (a hard link) means that whoever changes the file in place damages the blob; that is
        noticed, since the file's time changes.

        Args:
            seen: told the number of bytes after each piece that was hashed.

        Raises:
            StoreError: the file is no regular file, cannot be read, or changes while it is read.
        """
        with store_errors(source), open_regular(source) as file:
            before = os.fstat(file.fileno())
            self.make_room(0)
            temporary = self._temporary()
            try:
                if not (_clone(file.fileno(), temporary) or _link(source, temporary, before)):
                    return self._copy(file, before, pin, seen)
                with temporary.open("rb") as held:
                    # A second name is as old as the first; `prune` would take an old one for remains.
                    try_lock(held)
                    digest = _hash_file(temporary, seen)
                    _check_unchanged(file, before)
                    _sync_file(temporary)
                    self.place(temporary, digest, pin)
                return digest
            finally:
                temporary.unlink(missing_ok=True)

    def place(self, temporary: Path, digest: Digest, pin: Pin) -> None:
        """Give a finished file of this folder, hashed and on the disk, the name of its content.

        A blob of that name that is good already is kept instead. Raises: StoreError.
        """
        pin(digest)
        if self.verified(digest):
            return
        with store_errors(temporary):
            os.replace(temporary, self.path(digest))
            sync_folder(self.folder)
            self._record(digest, self.path(digest).stat())

    def remove(self, digest: Digest) -> int:
        """Delete the blob; the bytes that were freed, 0 when there was none. Raises: StoreError."""
        path = self.path(digest)
        with store_errors(path):
            self._record_path(digest).unlink(missing_ok=True)
            try:
                size = path.stat().st_size
                path.unlink()
            except FileNotFoundError:
                return 0
        return size

    def __iter__(self) -> Iterator[Digest]:
        """The digests of all blobs there are, right or damaged. Raises: StoreError."""
        with store_errors(self.folder):
            for path in self.folder.iterdir() if self.folder.is_dir() else ():
                with suppress(StoreError):
                    yield Digest.parse(path.name)

    def older_than(self, moment: float) -> list[Digest]:
        """The blobs last changed before `moment`, in seconds since 1970. Raises: StoreError."""
        return [digest for digest in self if changed_before(self.path(digest), moment)]

    def remains(self) -> Iterator[Path]:
        """Files among the blobs, and notes on blobs, that are of no use any more."""
        yield from blob_remains(self.folder)
        for note in self.records.iterdir() if self.records.is_dir() else ():
            if not (self.folder / f"sha256-{note.name}").exists():
                yield note

    def _copy(self, source: BinaryIO, before: os.stat_result, pin: Pin, seen: Seen | None) -> Digest:
        with self.create(before.st_size, pin) as writer:
            for chunk in read_chunks(source):
                writer.write(chunk)
                if seen is not None:
                    seen(writer.size)
                if writer.size > before.st_size:
                    break
            _check_unchanged(source, before)
            return writer.commit()

    def _temporary(self) -> Path:
        return self.folder / f"sha256-{random_digits()}{TEMPORARY_SUFFIX}"

    def _locked_temporary(self) -> tuple[Path, BinaryIO]:
        """A new temporary file, open and locked. Raises: OSError, StoreError."""
        while True:
            path = self._temporary()
            file = open(path, "xb")  # noqa: SIM115 - closed by BlobWriter
            # Before it was locked, `prune` may have taken it for remains.
            if try_lock(file) and path.exists():
                return path, file
            file.close()

    def _record_path(self, digest: Digest) -> Path:
        return self.records / digest.hex

    def _record(self, digest: Digest, info: os.stat_result) -> None:
        # A note that cannot be written costs another hashing, nothing else.
        with suppress(OSError):
            self.records.mkdir(parents=True, exist_ok=True)
            self._record_path(digest).write_text(_note(info))


class BlobWriter:
    """A blob being written. Leave its `with` block without `commit` and nothing stays.

    Attributes:
        path: the temporary file, complete on disk after `flush`; locked while it is being written.
        size: bytes written so far.
    """

    def __init__(self, store: BlobStore, pin: Pin) -> None:
        self._store = store
        self._pin = pin
        self._hash = hashlib.sha256()
        self.size = 0
        self.path, self._file = store._locked_temporary()

    def write(self, data: bytes) -> None:
        """Append `data`. Raises: StoreError when the disk refuses it."""
        with store_errors(self.path):
            self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def flush(self) -> Digest:
        """Bring what was written to the disk and return its digest; `path` may then be examined."""
        with store_errors(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
        return Digest(self._hash.hexdigest())

    def commit(self, expected: Digest | None = None) -> Digest:
        """Give the content its name.

        Raises:
            DigestMismatch: the content is not what `expected` says.
            StoreError: the disk refuses.
        """
        digest = self.flush()
        if expected is not None and digest != expected:
            raise DigestMismatch(f'digest mismatch, expected "{expected}", got "{digest}"')
        self._store.place(self.path, digest, self._pin)
        return digest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what a full disk has not taken is not wanted any more
            self._file.close()
        self.path.unlink(missing_ok=True)


def read_chunks(file: BinaryIO) -> Iterator[bytes]:
    """What is left of an open file in pieces of 1 MiB. Raises: OSError."""
    while chunk := file.read(_READ_SIZE):
        yield chunk


def write_all(writer: BlobWriter, chunks: Iterable[bytes]) -> Digest:
    """Write all of `chunks` and give them their name. Raises: StoreError."""
    for chunk in chunks:
        writer.write(chunk)
    return writer.commit()


def _hash_file(path: Path, seen: Seen | None = None) -> Digest:
    content = hashlib.sha256()
    done = 0
    buffer = memoryview(bytearray(_READ_SIZE))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            content.update(buffer[:count])
            done += count
            if seen is not None:
                seen(done)
    return Digest(content.hexdigest())


def _note(info: os.stat_result) -> str:
    return f"{info.st_size} {info.st_mtime_ns} {info.st_ino}"


def _check_unchanged(file: BinaryIO, before: os.stat_result) -> None:
    if _note(os.fstat(file.fileno())) != _note(before):
        raise StoreError(f"{file.name} was changed while it was read")


def _clone(source: int, target: Path) -> bool:
    """Make `target` share the blocks of the open file `source`; False where that is not to be had."""
    if sys.platform != "linux":
        return False
    import fcntl

    with target.open("xb") as file, suppress(OSError):
        fcntl.ioctl(file.fileno(), _FICLONE, source)
        return True
    target.unlink()
    return False


def _link(source: Path, target: Path, info: os.stat_result) -> bool:
    """Make `target` a second name of the file `source` that has these facts; False where it cannot be."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        return False
    if os.path.samestat(target.stat(), info):
        return True
    target.unlink()
    return False


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
