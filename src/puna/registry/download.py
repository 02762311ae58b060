"""One blob from a registry into the store: in parts, several at once where that helps, resumed and verified.

The content gathers in `blobs/sha256-<hex>.partial`; a journal beside it lists what has come. Threads fetch
parts, the earliest first, while another follows them from the beginning of the file and hashes, so that the
digest is known soon after the last byte. Who holds the lock on the partial file does the work; whoever else
wants the blob waits for it, in this process or another.
"""

import hashlib
import os
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

from puna.errors import DigestMismatch, FetchError, Interrupted, StoreError
from puna.registry.client import RangeIgnored
from puna.registry.http import Response
from puna.registry.journal import Journal, Record, intact
from puna.registry.pace import Pace
from puna.registry.parts import Part, Parts
from puna.registry.patience import Patience
from puna.registry.spans import Span
from puna.store.blobs import BlobStore
from puna.store.digest import Digest
from puna.store.files import make_folders, store_errors
from puna.store.library import Session
from puna.store.locks import try_lock

_BUFFER = 1 << 20
_TICK_SECONDS = 0.06
_WAIT_SECONDS = 0.2
_OBSERVED_SECONDS = 1.0

Received = Callable[[int], None]
"""Told how many bytes of the blob there are, in the caller's thread; what it raises ends the download."""


class BlobSource(Protocol):
    """Where the bytes of a blob come from."""

    def blob(self, digest: Digest, span: Span, size: int) -> Response:
        """The bytes `span` of the blob. Raises: FetchError."""

    def abort(self) -> None:
        """End every request that is under way now."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """How to go about a transfer.

    Attributes:
        streams: most parts fetched at once.
        part: bytes of the first parts; later ones grow with the speed, up to `largest_part`.
        record: bytes after which the journal is told; what each stream loses when the program is stopped.
    """

    streams: int = 8
    part: int = 32 << 20
    largest_part: int = 256 << 20
    record: int = 4 << 20


def download_blob(
    digest: Digest,
    size: int,
    sources: Sequence[BlobSource],
    blobs: BlobStore,
    session: Session,
    received: Received,
    transfer: Transfer,
    patience: Patience,
) -> bool:
    """See that the store has the blob, whole and verified; whether anything had to be fetched.

    Args:
        size: bytes of the blob.
        sources: asked in turn; a later one goes on where an earlier one failed.
        session: keeps the blob from being deleted.
        received: see `Received`.
        transfer: how to go about it.
        patience: when to give up.

    Raises:
        DigestMismatch: other content is sent than the digest says.
        OutOfSpace: the disk is full.
        FetchError: no source has it.
    """
    session.pin(digest)
    with ExitStack() as stack:
        file = _claim(digest, size, blobs, received, stack)
        if file is None:
            return False
        journal = Journal(Path(file.name), size)
        with store_errors(Path(file.name)):
            journal.load(file.seek(0, os.SEEK_END))
            file.truncate(max((record.span.end for record in journal.records), default=0))
        blobs.make_room(size - sum(record.span.size for record in journal.records))
        blob = _Blob(digest, size, Path(file.name), journal)
        try:
            _fill(blob, sources, received, transfer, patience)
        except BaseException:
            if not journal.records:
                blob.discard()
            raise
        with store_errors(Path(file.name)):
            os.fsync(file.fileno())
        session.place(Path(file.name), digest)
        with store_errors(Path(file.name)):
            # It is still there where another has brought the same blob meanwhile.
            Path(file.name).unlink(missing_ok=True)
            journal.remove()
        return True


@dataclass(frozen=True, slots=True)
class _Blob:
    """What is being fetched, and where it gathers."""

    digest: Digest
    size: int
    path: Path
    journal: Journal

    def discard(self) -> None:
        """Delete what has come of it."""
        self.path.unlink(missing_ok=True)
        self.journal.remove()


def _claim(
    digest: Digest, size: int, blobs: BlobStore, received: Received, stack: ExitStack
) -> BinaryIO | None:
    """The partial file, locked, when the blob is still to be fetched; None when the store has it."""
    path = blobs.partial_path(digest)
    while True:
        if _has(blobs, digest, size):
            received(size)
            return None
        with store_errors(path), suppress(FileNotFoundError), ExitStack() as opened:
            make_folders(blobs.folder)
            file = opened.enter_context(path.open("ab"))
            if try_lock(file) and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                # Whoever held the lock may have finished since the look, and this file be a new one.
                if not _has(blobs, digest, size):
                    stack.push(opened.pop_all())
                    return file
                path.unlink()
                continue
        # Another does the work; the journal tells how far it is.
        received(min(size, Journal(path, size).received()))
        time.sleep(_WAIT_SECONDS)


def _has(blobs: BlobStore, digest: Digest, size: int) -> bool:
    return blobs.size(digest) == size and blobs.verified(digest)


def _fill(
    blob: _Blob,
    sources: Sequence[BlobSource],
    received: Received,
    transfer: Transfer,
    patience: Patience,
) -> None:
    """Fetch what the journal lacks, from the first source that has the right content.

    Raises:
        DigestMismatch: the last one sends other content; nothing is kept.
        FetchError: it cannot be fetched from the last one; what has come is kept.
    """
    for source in sources[:-1]:
        with suppress(FetchError):
            if _filled(blob, source, received, transfer, patience):
                return
    if not _filled(blob, sources[-1], received, transfer, patience):
        blob.discard()
        raise DigestMismatch(
            f"digest mismatch, file must be downloaded again: what is sent for {blob.digest} is other content"
        )


def _filled(
    blob: _Blob, source: BlobSource, received: Received, transfer: Transfer, patience: Patience
) -> bool:
    """Fetch what is missing from one source; whether the whole has the right digest.

    After a mismatch, what a machine that stopped has not brought to the disk is fetched again. Then
    everything, in one stream: there are proxies that spoil parts and let wholes through.
    """
    if _Fetch(blob, source, transfer, patience).run(received):
        return True
    with store_errors(blob.path), blob.path.open("rb") as file:
        kept = intact(blob.journal.records, file)
        lost = len(kept) < len(blob.journal.records)
        blob.journal.rewrite(kept if lost else [])
    if lost and _Fetch(blob, source, transfer, patience).run(received):
        return True
    with store_errors(blob.path):
        blob.journal.rewrite([])
    single = replace(transfer, streams=1, part=blob.size, largest_part=blob.size)
    if _Fetch(blob, source, single, patience).run(received):
        return True
    with store_errors(blob.path):
        blob.journal.rewrite([])
    return False


class _Fetch:
    """One try to fetch from one source what the journal lacks.

    The caller's thread watches; others fetch parts, one hashes what has come.
    """

    def __init__(self, blob: _Blob, source: BlobSource, transfer: Transfer, patience: Patience) -> None:
        self._blob = blob
        self._source = source
        self._transfer = transfer
        self._patience = patience
        self._parts = Parts(blob.size, [record.span for record in blob.journal.records])
        self._pace = Pace(transfer.streams)

    def run(self, received: Received) -> bool:
        """Whether the whole has the right digest. Raises: FetchError, StoreError, what `received` raises."""
        with ThreadPoolExecutor(self._transfer.streams + 1, "download") as pool:
            hashed = pool.submit(self._hash)
            streams: list[Future[None]] = []
            try:
                self._watch(pool, streams, received)
            except BaseException:
                self._parts.stop()
                # A thread may be about to send a request when the others are ended.
                while not all(stream.done() for stream in streams):
                    self._source.abort()
                    wait(streams, _TICK_SECONDS)
                raise
        return hashed.result() == self._blob.digest.hex

    def _watch(self, pool: ThreadPoolExecutor, streams: list[Future[None]], received: Received) -> None:
        began, before = time.monotonic(), self._parts.received
        while not self._parts.complete:
            streams[:] = [stream for stream in streams if not _ended(stream)]
            while len(streams) < self._pace.streams:
                streams.append(pool.submit(self._stream))
            received(self._parts.received)
            self._parts.wait(_TICK_SECONDS)
            passed = time.monotonic() - began
            if passed >= _OBSERVED_SECONDS:
                self._pace.observe((self._parts.received - before) / passed)
                began, before = time.monotonic(), self._parts.received
        received(self._parts.received)

    def _stream(self) -> None:
        """Fetch one part after the other, until there is none to take."""
        while (part := self._take()) is not None:
            try:
                self._fetch(part)
            except Interrupted:
                if not self._parts.stopped:
                    raise
            except RangeIgnored:
                self._parts.whole = True
            except FetchError as error:
                self._pause(part, error)
            finally:
                self._parts.release(part)

    def _take(self) -> Part | None:
        size = self._pace.part(self._transfer.part, self._transfer.largest_part)
        return self._parts.take(size, self._pace.streams)

    def _pause(self, part: Part, error: FetchError) -> None:
        """Wait after a failure, longer each time. Raises: FetchError when it is one too many."""
        seconds = self._patience.pause(self._parts.failed(part), error)
        self._pace.slow_down()
        self._parts.pause(seconds)

    def _fetch(self, part: Part) -> None:
        whole = self._parts.whole
        span = Span(0, self._blob.size) if whole else Span(part.position, part.end)
        with self._source.blob(self._blob.digest, span, self._blob.size) as response:
            self._parts.begun(part, response)
            if whole:
                _skip(response, part.position)
            with store_errors(self._blob.path), self._blob.path.open("r+b", buffering=0) as file:
                file.seek(part.position)
                self._copy(part, response, file)

    def _copy(self, part: Part, response: Response, file: BinaryIO) -> None:
        buffer = memoryview(bytearray(_BUFFER))
        checksum = 0
        try:
            while part.remaining > 0:
                room = min(_BUFFER, part.remaining, self._transfer.record - (part.position - part.start))
                count = response.readinto(buffer[:room])
                if count == 0:
                    raise FetchError(f"the transfer ended {part.remaining} bytes early")
                _write(file, buffer[:count])
                checksum = zlib.crc32(buffer[:count], checksum)
                self._parts.arrived(part, count)
                if part.position - part.start >= self._transfer.record:
                    self._record(part, checksum)
                    checksum = 0
        finally:
            if part.position > part.start:
                self._record(part, checksum)

    def _record(self, part: Part, checksum: int) -> None:
        position = part.position
        self._blob.journal.add(Record(Span(part.start, position), checksum))
        self._parts.recorded(part, position)

    def _hash(self) -> str:
        """The digest of the whole, following the parts from the beginning; empty when they end before."""
        content = hashlib.sha256()
        buffer = memoryview(bytearray(_BUFFER))
        position = 0
        with store_errors(self._blob.path), self._blob.path.open("rb", buffering=0) as file:
            while position < self._blob.size:
                reached = self._parts.wait_behind(position)
                if reached == position:
                    return ""
                while position < reached:
                    count = file.readinto(buffer[: min(_BUFFER, reached - position)])
                    if not count:
                        raise StoreError(f"{self._blob.path} is shorter than what has been written to it")
                    content.update(buffer[:count])
                    position += count
        return content.hexdigest()


def _ended(stream: "Future[None]") -> bool:
    """Whether the thread's work is over. Raises: what it raised."""
    if stream.done():
        stream.result()
        return True
    return False


def _skip(response: Response, count: int) -> None:
    buffer = memoryview(bytearray(_BUFFER))
    while count:
        read = response.readinto(buffer[: min(_BUFFER, count)])
        if read == 0:
            raise FetchError(f"the transfer ended {count} bytes early")
        count -= read


def _write(file: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]
