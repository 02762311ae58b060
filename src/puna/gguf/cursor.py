"""Bounded reading of the fields at the front of a file.

The front of the file is read into memory, never mapped: a file that somebody cuts short while it is open then
ends in a GGUFError and not in a bus error, which would take the process with it.
"""

import re
import struct
from functools import cache
from io import FileIO
from itertools import repeat
from operator import length_hint
from typing import Any, Final, Literal

from puna.errors import GGUFError
from puna.gguf.types import MAX_STRING_BYTES

ByteOrder = Literal["<", ">"]

MAX_HEADER_BYTES: Final = 256 << 20
# One read brings in a whole small header; later ones double it, or read ahead for an array of strings.
_FIRST_READ: Final = 1 << 18
_USUAL_STRING: Final = 8 + 17
_MAX_AHEAD: Final = 16 << 20

_RUN: Final = 1024
_MIN_RUNS: Final = 8
# The lengths that tokens have, the most frequent first.
_SHORT: Final = bytes.fromhex(
    "06 09 03 0c 07 08 04 0b 0a 05 0f 0d 12 0e 02 15 18 11 10 1b 13 1e 21 17 24 19 01 27"
    "1d 2a 14 1f 16 2d 30 00 1a 1c 20 22 23 25 26 28 29 2b 2c 2e 2f"
)


@cache
def _short_strings(order: ByteOrder) -> re.Pattern[bytes]:
    """Matches exactly `_RUN` stored strings, all of them of one of the lengths `_SHORT`."""
    forms = [re.escape(struct.pack(order + "Q", length)) + b".{%d}" % length for length in _SHORT]
    return re.compile(b"(?:%s){%d}+" % (b"|".join(forms), _RUN), re.DOTALL)


class Cursor:
    """A position in the front of a file, every step of which is checked against the file's size.

    Attributes:
        path: the file's name, for messages.
        size: bytes in the file when it was opened.
        head: what has been read of it so far.
        offset: where the next field begins.
    """

    def __init__(self, file: FileIO, size: int, path: str) -> None:
        self.path = path
        self.size = size
        self.head = b""
        self.offset = 0
        self._file = file
        self.set_byte_order("<")

    def set_byte_order(self, order: ByteOrder) -> None:
        """Read the numbers that follow as little ("<") or big (">") endian."""
        self.order: ByteOrder = order
        self._u32 = struct.Struct(order + "I")
        self._u64 = struct.Struct(order + "Q")

    @property
    def remaining(self) -> int:
        """Bytes between the offset and the end of the file."""
        return self.size - self.offset

    def error(self, field: str, problem: str, offset: int | None = None) -> GGUFError:
        """A GGUFError naming the file, the field, its offset and what is wrong with it."""
        place = self.offset if offset is None else offset
        return GGUFError(f"{self.path}: {field} at byte {place} {problem}")

    def skip(self, count: int, field: str) -> int:
        """Step over `count` bytes and return the offset they began at.

        Raises:
            GGUFError: the file ends before them.
        """
        start = self.offset
        if count > self.size - start:
            raise self.error(field, f"needs {count} bytes, but only {self.remaining} are left in the file")
        self.offset = start + count
        return start

    def take(self, count: int, field: str) -> bytes:
        """The next `count` bytes.

        Raises:
            GGUFError: the file ends before them.
        """
        start = self.skip(count, field)
        self.load(self.offset)
        return self.head[start : self.offset]

    def unpack(self, layout: struct.Struct, field: str) -> tuple[Any, ...]:
        """The next numbers, laid out as `layout` says.

        Raises:
            GGUFError: the file ends before them.
        """
        start = self.skip(layout.size, field)
        self.load(self.offset)
        return layout.unpack_from(self.head, start)

    def u32(self, field: str) -> int:
        """The next unsigned 32-bit number."""
        return int(self.unpack(self._u32, field)[0])

    def u64(self, field: str) -> int:
        """The next unsigned 64-bit number."""
        return int(self.unpack(self._u64, field)[0])

    def string_length(self, field: str, limit: int = MAX_STRING_BYTES) -> int:
        """The length of the next string, known to lie within the file.

        Raises:
            GGUFError: it is longer than `limit` or than what is left of the file.
        """
        start = self.offset
        length = self.u64(f"the length of {field}")
        if length > self.remaining:
            raise self.error(
                f"the length of {field}", f"is {length}, but only {self.remaining} bytes are left", start
            )
        if length > limit:
            raise self.error(f"the length of {field}", f"is {length}, but at most {limit} is allowed", start)
        return length

    def string(self, field: str, limit: int = MAX_STRING_BYTES) -> bytes:
        """The next string, undecoded."""
        return self.take(self.string_length(field, limit), field)

    def skip_strings(self, count: int, field: str) -> None:
        """Step over `count` strings.

        Raises:
            GGUFError: one of them is too long or does not end within the file.
        """
        start = self.offset
        self.load(min(self.size, start + min(count * _USUAL_STRING, _MAX_AHEAD)))
        end = self._walk(start, count)
        # Only a walk that ends badly, or may hide a string too long, is repeated in steps that can say why.
        if end > self.size or end - start > MAX_STRING_BYTES:
            for index in range(count):
                self.skip(self.string_length(f"string {index} of {field}"), field)
        self.offset = end

    def _walk(self, position: int, count: int) -> int:
        """Where the `count` strings at `position` end; beyond the file's size if they do not end within it.

        This is what opening a file with a large vocabulary costs. A regular expression that matches a run of
        short strings takes 50 ns for each of them, a loop 80 ns.
        """
        if count >= _MIN_RUNS * _RUN:
            run = _short_strings(self.order)
            while count >= _RUN and position <= self.size:
                match = run.match(self.head, position)
                position = match.end() if match else self._step(position, _RUN)
                count -= _RUN
        return self._step(position, count)

    def _step(self, position: int, count: int) -> int:
        """As `_walk`, one string at a time."""
        read_length = self._u64.unpack_from
        steps = repeat(None, count)
        while True:
            head = self.head
            try:
                for _ in steps:
                    position += 8 + read_length(head, position)[0]
            except (struct.error, OverflowError):
                # The length at `position` lies beyond the head, whether for want of reading or of sense.
                if position + 8 > self.size or position > len(head) + 8 + MAX_STRING_BYTES:
                    return self.size + 1
                self.load(position + 8)
                steps = repeat(None, length_hint(steps) + 1)
            else:
                return position

    def load(self, end: int) -> None:
        """Have the first `end` bytes of the file in `head`."""
        if end <= len(self.head):
            return
        if end > MAX_HEADER_BYTES:
            raise GGUFError(f"{self.path}: the metadata is larger than the {MAX_HEADER_BYTES} bytes allowed")
        target = min(self.size, max(end, 2 * len(self.head), _FIRST_READ))
        # Read anew into one piece: joining what is there with what follows would copy all of it once more.
        self._file.seek(0)
        head = self._file.read(target)
        if len(head) < end or not head.startswith(self.head):
            raise GGUFError(f"{self.path}: the file changed while it was read")
        self.head = head
