"""Which parts of a blob have come: a text file beside the partial file, one line a stretch.

    puna-partial 1 <bytes of the whole blob>
    <start> <end> <CRC-32 of the bytes, 8 hexadecimal digits>
    …

A line is written after its bytes, so whatever is listed was written before a program was stopped. When the
machine itself stops, the disk may have the line and not the bytes; the checksums then tell which.
"""

import os
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from puna.registry.spans import Span

_LINE = re.compile(rb"([0-9]{1,19}) ([0-9]{1,19}) ([0-9a-f]{8})\n", re.ASCII)
_READ_SIZE = 1 << 20
SUFFIX = ".journal"


@dataclass(frozen=True, slots=True)
class Record:
    """A stretch that has come, and the checksum of its bytes."""

    span: Span
    checksum: int


class Journal:
    """The journal of one partial file; several threads may add to it.

    Attributes:
        records: what it lists.
    """

    def __init__(self, partial: Path, size: int) -> None:
        self._path = partial.with_name(partial.name + SUFFIX)
        self._header = b"puna-partial 1 %d\n" % size
        self._size = size
        self._lock = threading.Lock()
        self.records: list[Record] = []

    def load(self, written: int) -> None:
        """Read what an earlier try has listed; a journal of another size, or none, lists nothing.

        Args:
            written: bytes of the partial file; what is listed beyond them is left out.

        Raises:
            OSError: the journal cannot be read or written.
        """
        with suppress(FileNotFoundError):
            content = self._path.read_bytes()
            if content.startswith(self._header):
                self.records = list(_records(content, min(self._size, written)))
                return
        self.rewrite([])

    def rewrite(self, records: list[Record]) -> None:
        """List these and nothing else. Raises: OSError."""
        self.records = records
        lines = b"".join(_line(record) for record in records)
        temporary = self._path.with_suffix(".tmp")
        temporary.write_bytes(self._header + lines)
        os.replace(temporary, self._path)

    def add(self, record: Record) -> None:
        """List one more stretch, whose bytes have been written. Raises: OSError."""
        with self._lock:
            # One write: a line that is cut is no line.
            with self._path.open("ab", buffering=0) as file:
                file.write(_line(record))
            self.records.append(record)

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)

    def received(self) -> int:
        """Bytes that the file lists now, whoever writes it."""
        with suppress(FileNotFoundError):
            return sum(record.span.size for record in _records(self._path.read_bytes(), self._size))
        return 0


def intact(records: list[Record], file: IO[bytes]) -> list[Record]:
    """Those whose bytes in the file have the checksum still. Raises: OSError."""
    return [record for record in records if _checksum(file, record.span) == record.checksum]


def _records(content: bytes, end: int) -> Iterator[Record]:
    """What a journal lists, but for stretches that are empty or reach beyond `end`."""
    for line in content.splitlines(keepends=True)[1:]:
        match = _LINE.fullmatch(line)
        if match and int(match[1]) < int(match[2]) <= end:
            yield Record(Span(int(match[1]), int(match[2])), int(match[3], 16))


def _line(record: Record) -> bytes:
    return b"%d %d %08x\n" % (record.span.start, record.span.end, record.checksum)


def _checksum(file: IO[bytes], span: Span) -> int:
    checksum = 0
    for start in range(span.start, span.end, _READ_SIZE):
        checksum = zlib.crc32(os.pread(file.fileno(), min(_READ_SIZE, span.end - start), start), checksum)
    return checksum
