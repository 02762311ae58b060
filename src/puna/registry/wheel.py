"""Wheels read as data: zip archives whose members are streamed out, never unpacked to their own names.

Nothing in a wheel is trusted. Member names become no paths; encrypted, linked, doubled, absolute or climbing
members and absurd compression are refused; content is checked against the archive's CRC and the RECORD.
"""

import base64
import binascii
import csv
import hashlib
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from puna.errors import FetchError, FormatError

_CHUNK = 1 << 20
# What `zipfile` raises on archives that are not as they should be.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
_MAX_MEMBERS = 100_000
_MAX_RATIO = 200
_RATIO_FREE_SIZE = 1 << 20
_METADATA_LIMIT = 4 << 20

_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*\(?(?P<version>[0-9A-Za-z.*+!<>=~,\s]*)\)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One dependency of a wheel: name and version specifier, as pip takes them."""

    name: str
    version: str

    def __str__(self) -> str:
        return self.name + self.version


@dataclass(frozen=True)
class Wheel:
    """An open wheel. Use `open_wheel`.

    Attributes:
        path: the file.
        members: its files by name, in the archive's order.
    """

    path: Path
    members: dict[str, zipfile.ZipInfo]
    _archive: zipfile.ZipFile

    def read(self, name: str, limit: int = _METADATA_LIMIT) -> bytes:
        """The content of a small member. Raises: FormatError when it is damaged or over `limit` bytes."""
        if self.members[name].file_size > limit:
            raise FormatError(f"{self.path.name}: {name} is longer than {limit} bytes")
        return b"".join(self._chunks(name))

    def chunks(self, name: str) -> Iterator[bytes]:
        """The content of a member in pieces, checked against RECORD at the end. Raises: FormatError."""
        recorded = self.recorded_digest(name)
        digest = hashlib.sha256()
        for chunk in self._chunks(name):
            digest.update(chunk)
            yield chunk
        if recorded is not None and digest.digest() != recorded:
            raise FormatError(f"{self.path.name}: {name} is not what the wheel's RECORD says")

    def recorded_digest(self, name: str) -> bytes | None:
        """The SHA-256 that RECORD gives for a member; None when it gives none. Raises: FormatError."""
        recorded = self._recorded.get(name)
        return self._decode(recorded) if recorded is not None else None

    @cached_property
    def _recorded(self) -> dict[str, str]:
        """What RECORD says of each member's SHA-256; the first that it says of one counts."""
        record = self.distribution_file("RECORD")
        if record is None:
            return {}
        try:
            rows = list(csv.reader(_text(self.read(record)).splitlines()))
        except csv.Error as error:
            raise FormatError(f"{self.path.name}: its RECORD is damaged: {error}") from error
        digests: dict[str, str] = {}
        for row in rows:
            if len(row) == 3 and row[1].startswith("sha256="):
                digests.setdefault(row[0], row[1].removeprefix("sha256="))
        return digests

    def distribution_file(self, name: str) -> str | None:
        """The member `<distribution>.dist-info/<name>`, if there is one."""
        suffix = f".dist-info/{name}"
        return next(
            (member for member in self.members if member.endswith(suffix) and member.count("/") == 1), None
        )

    def headers(self, field: str) -> list[str]:
        """The values of one field of the METADATA file. Raises: FormatError."""
        metadata = self.distribution_file("METADATA")
        if metadata is None:
            raise FormatError(f"{self.path.name} is not a wheel: it has no METADATA")
        head = _text(self.read(metadata)).replace("\r\n", "\n").partition("\n\n")[0]
        prefix = field.lower() + ":"
        return [line[len(prefix) :].strip() for line in head.splitlines() if line.lower().startswith(prefix)]

    def requirements(self) -> list[Requirement]:
        """Its unconditional dependencies; those with a marker or an address of their own are left out."""
        found = (_REQUIREMENT.fullmatch(text) for text in self.headers("Requires-Dist"))
        return [Requirement(match["name"], re.sub(r"\s", "", match["version"])) for match in found if match]

    def _chunks(self, name: str) -> Iterator[bytes]:
        try:
            with self._archive.open(self.members[name]) as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
        except (*_DAMAGE, OSError) as error:
            raise FormatError(f"{self.path.name}: {name} is damaged: {error}") from error

    def _decode(self, text: str) -> bytes:
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise FormatError(f"{self.path.name}: its RECORD is damaged") from error


@contextmanager
def open_wheel(path: Path) -> Iterator[Wheel]:
    """The wheel at `path`.

    Raises:
        FetchError: the file cannot be read.
        FormatError: it is no zip archive, or one that no honest build makes.
    """
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise FetchError(f"{path.name}: {error.strerror or error}") from error
    except _DAMAGE as error:
        raise FormatError(f"{path.name} is not a wheel: {error}") from error
    with archive:
        yield Wheel(path, _checked_members(path, archive.infolist()), archive)


def _checked_members(path: Path, entries: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    if len(entries) > _MAX_MEMBERS:
        raise FormatError(f"{path.name} has {len(entries)} members, more than any wheel needs")
    members: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        fault = "appears twice" if entry.filename in members else _fault(entry)
        if fault:
            raise FormatError(f"{path.name} is refused: its member {entry.filename[:200]!r} {fault}")
        if not entry.is_dir():
            members[entry.filename] = entry
    return members


def _fault(entry: zipfile.ZipInfo) -> str | None:
    """Why an archive with this member is refused; None when nothing is wrong with it."""
    name = entry.filename
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if not name or "\0" in entry.orig_filename or "\\" in entry.orig_filename:
        return "has a name that is no path"
    if PurePosixPath(name).is_absolute() or ".." in name.split("/") or ":" in name.split("/")[0]:
        return "points outside the archive"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is not a regular file"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in a way wheels do not use"
    if entry.file_size > max(_RATIO_FREE_SIZE, _MAX_RATIO * entry.compress_size):
        return "expands beyond all measure"
    return None


def _text(content: bytes) -> str:
    return content.decode("utf-8", errors="replace")
