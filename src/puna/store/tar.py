"""Reading tar archives of strangers as a stream, in bounded memory and linear time.

Nothing is unpacked: a member is a name, a size and its bytes. The standard library's reader is not used: it
takes a header extension into memory whatever its size, and in older Pythons searches it in quadratic time
(CVE-2024-6232). Source: POSIX.1-2017, `pax`, and the GNU tar manual on long names and sizes in base 256.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import BinaryIO

from puna.errors import FormatError

BLOCK = 512
_READ_SIZE = 1 << 20
_EXTENSION_LIMIT = 64 << 10
_MAX_HEADERS = 100_000
_OCTAL = re.compile(rb"[\0 ]*([0-7]*)[\0 ]*")
_RECORD_LENGTH = re.compile(rb"([0-9]{1,6}) ", re.ASCII)
_WANTED: tuple[bytes, ...] = (b"path", b"size")
_PAX, _PAX_FOR_ALL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"


class Kind(Enum):
    """What a member is, in words for a message."""

    FILE = "a file"
    FOLDER = "a folder"
    LINK = "a link"
    DEVICE = "a device or a pipe"
    OTHER = "of an unknown kind"


_KINDS = {
    **dict.fromkeys((b"0", b"\0", b"7"), Kind.FILE),
    **dict.fromkeys((b"1", b"2"), Kind.LINK),
    **dict.fromkeys((b"3", b"4", b"6"), Kind.DEVICE),
    b"5": Kind.FOLDER,
}


@dataclass(frozen=True, slots=True)
class Member:
    """One member: its name, bytes of its content, and what it is."""

    name: str
    size: int
    kind: Kind


class TarReader:
    """The members of an archive in their order. Each one's content can be read until the next is asked for.

    Args:
        file: read from where it stands, never sought.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = self._padding = 0

    def __iter__(self) -> Iterator[Member]:
        """Raises: FormatError where the archive is damaged, ends early or has too many members."""
        extension: dict[bytes, bytes] = {}
        for _ in range(_MAX_HEADERS):
            self._skip()
            header = self._take(BLOCK)
            if header.count(0) == len(header):  # the end of the archive, or of the file
                return
            member, flag = _parse(header, extension)
            self._left, self._padding = member.size, -member.size % BLOCK
            if flag in (_PAX, _PAX_FOR_ALL, _LONG_NAME, _LONG_LINK):
                extension |= _extension(flag, self._whole(member.size))
            else:
                extension = {}
                yield member
        raise FormatError(f"the archive has more than {_MAX_HEADERS} members")

    def content(self) -> Iterator[bytes]:
        """What is left of the current member. Raises: FormatError when the archive ends before it does."""
        while self._left:
            chunk = self._file.read(min(self._left, _READ_SIZE))
            if not chunk:
                raise FormatError(f"the archive ends {self._left} bytes before it should")
            self._left -= len(chunk)
            yield chunk

    def _whole(self, size: int) -> bytes:
        if size > _EXTENSION_LIMIT:
            raise FormatError(f"the archive has a header of {size} bytes; {_EXTENSION_LIMIT} is the limit")
        return b"".join(self.content())

    def _skip(self) -> None:
        self._left += self._padding
        self._padding = 0
        for _ in self.content():
            pass

    def _take(self, size: int) -> bytes:
        """The next bytes; fewer where the file ends, and none where it ends already."""
        taken = b""
        while len(taken) < size and (chunk := self._file.read(size - len(taken))):
            taken += chunk
        return taken


def _parse(header: bytes, extension: Mapping[bytes, bytes]) -> tuple[Member, bytes]:
    """The member that a header block describes, and its type flag."""
    if len(header) < BLOCK:
        raise FormatError("the archive ends inside a header")
    if _number(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise FormatError("this is no tar archive, or it is damaged: a header's checksum is wrong")
    flag = header[156:157]
    kind = _KINDS.get(flag, Kind.OTHER)
    name = _text(header[:100])
    if header[257:263] == b"ustar\0" and header[345]:
        name = _text(header[345:500]) + b"/" + name
    size = _number(header[124:136])
    if flag not in (_PAX, _PAX_FOR_ALL, _LONG_NAME, _LONG_LINK):
        name = extension.get(b"path", name)
        size = _decimal(extension[b"size"]) if b"size" in extension else size
    if kind in (Kind.LINK, Kind.DEVICE, Kind.FOLDER):
        size = 0  # they have no content, whatever the field says
    return Member(name.decode("utf-8", "replace"), size, kind), flag


def _extension(flag: bytes, content: bytes) -> dict[bytes, bytes]:
    """What a header says of the member after it, by pax keyword."""
    if flag == _LONG_LINK:
        return {}
    if flag == _LONG_NAME:
        return {b"path": _text(content)}
    records = dict(_records(content))
    if any(key.startswith(b"GNU.sparse") for key in records):
        raise FormatError("the archive has a file with holes, which is not supported")
    wanted = {key: records[key] for key in _WANTED if key in records}
    if wanted and flag == _PAX_FOR_ALL:
        raise FormatError("the archive gives all its members one name or size")
    return wanted


def _records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Records of an extended header: `<length of the record> <keyword>=<value>` and a newline."""
    place = 0
    while place < len(content):
        match = _RECORD_LENGTH.match(content, place)
        end = place + int(match[1]) if match else 0
        if not match or end <= match.end() or content[end - 1 : end] != b"\n":
            raise FormatError("the archive has a damaged extended header")
        key, _, value = content[match.end() : end - 1].partition(b"=")
        yield key, value
        place = end


def _number(field: bytes) -> int:
    """A number in octal, or in base 256 where the first bit says so."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:])
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise FormatError("this is no tar archive, or it is damaged: a header lacks a number")
    return int(match[1] or b"0", 8)


def _decimal(text: bytes) -> int:
    if not re.fullmatch(rb"[0-9]{1,20}", text):
        raise FormatError(f"the archive has a member of the size {text[:100]!r}")
    return int(text)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]
