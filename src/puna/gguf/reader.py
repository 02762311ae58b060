"""Opening a GGUF file: everything its header claims is checked against its size before anything is used."""

import contextlib
import os
import struct
from collections.abc import Iterable, Mapping
from io import FileIO
from mmap import ACCESS_READ
from mmap import mmap as MemoryMap
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

from puna.errors import GGUFError
from puna.gguf.cursor import ByteOrder, Cursor
from puna.gguf.metadata import Entry, Metadata, describe
from puna.gguf.types import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_ALIGNMENT,
    MAX_ARRAY_ELEMENTS,
    MAX_ARRAY_STRINGS,
    MAX_DIMENSIONS,
    MAX_INT64,
    MAX_KEY_BYTES,
    MAX_KEYS,
    MAX_NAME_BYTES,
    MAX_TENSORS,
    MIN_ALIGNMENT,
    REMOVED_TYPES,
    SCALAR_SIZES,
    VERSIONS,
    GGMLType,
    TensorInfo,
    ValueType,
    is_key,
    is_tensor_name,
    padded,
)
from puna.regular import regular_only

# The least that a key (length, one byte, type, one byte) and a tensor (length, one byte, dimensions, type,
# offset) take.
_MIN_KEY_BYTES: Final = 8 + 1 + 4 + 1
_MIN_TENSOR_BYTES: Final = 8 + 1 + 4 + 4 + 8
_OLD_MAGICS: Final = frozenset({b"ggml", b"ggmf", b"ggjt", b"ggla", b"lmgg", b"fmgg", b"tjgg", b"algg"})
_TYPES: Final[dict[int, GGMLType]] = {int(type_): type_ for type_ in GGMLType}
_VALUE_TYPES: Final[dict[int, ValueType]] = {int(type_): type_ for type_ in ValueType}


class GGUFFile:
    """An open GGUF file: a context manager.

    Attributes:
        path: where it is.
        size: its bytes.
        version: 2 or 3.
        byte_order: "<" (little endian) or ">" (big endian); holds for the tensors' data as well.
        alignment: every tensor begins at a multiple of it, counted from `data_offset`.
        data_offset: where the data of the tensors begins, in bytes from the beginning of the file.
        metadata: its keys and values; usable after `close`.
        tensors: its tensors by name, in the file's order; usable after `close`.
    """

    def __init__(self, path: Path, file: FileIO, cursor: Cursor) -> None:
        """Read the header through `cursor`; `open` is the way to make one."""
        self.version = _read_version(cursor)
        tensor_count, key_count = _read_counts(cursor)
        self.path = path
        self.size = cursor.size
        self.byte_order: ByteOrder = cursor.order
        entries = _read_entries(cursor, key_count)
        self.alignment = _alignment(cursor, entries)
        tensors = _read_tensors(cursor, tensor_count, self.alignment)
        cursor.load(cursor.offset)
        self.metadata = Metadata(cursor.path, cursor.head, cursor.order, entries)
        self.data_offset = padded(cursor.offset, self.alignment)
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(tensors)
        self._file = file
        self._map: MemoryMap | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open the file `path`, check it whole, and decode nothing.

        Raises:
            GGUFError: it cannot be read, or is not a sound GGUF file of version 2 or 3; the message names the
                file and, where there is one, the field and its offset.
        """
        place = Path(path)
        file = _open_regular(place)
        try:
            cursor = Cursor(file, os.fstat(file.fileno()).st_size, str(place))
            return cls(place, file, cursor)
        except OSError as error:
            file.close()
            raise GGUFError(f"{place}: cannot be read: {error.strerror}") from error
        except GGUFError:
            file.close()
            raise

    @property
    def mmap(self) -> MemoryMap:
        """The whole file, mapped read-only on first use.

        Raises:
            GGUFError: it is not as long as it was when it was opened, cannot be mapped, or was closed.
        """
        if self._map is None:
            self._map = self._make_map()
        return self._map

    def tensor_bytes(self, name: str) -> memoryview:
        """The stored data of a tensor: `nbytes` unsigned bytes of the mapping, in the file's byte order.

        They stay valid as long as the view (or a view of it) exists, also after `close`.
        `puna.gguf.byteorder.swap_bytes` turns big-endian data into little-endian and back.

        Raises:
            GGUFError: there is no such tensor, or as for `mmap`.
        """
        info = self.tensors.get(name)
        if info is None:
            raise GGUFError(f"{self.path}: there is no tensor {name!r}")
        return memoryview(self.mmap)[info.offset : info.offset + info.nbytes]

    def close(self) -> None:
        """Give the file back; harmless when repeated."""
        if self._map is not None:
            # A view that somebody still holds keeps the mapping; it goes when the view does.
            with contextlib.suppress(BufferError):
                self._map.close()
            self._map = None
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _make_map(self) -> MemoryMap:
        if self._file.closed:
            raise GGUFError(f"{self.path}: the file is closed")
        try:
            if os.fstat(self._file.fileno()).st_size != self.size:
                raise GGUFError(f"{self.path}: the file changed its size after it was opened")
            return MemoryMap(self._file.fileno(), self.size, access=ACCESS_READ)
        except OSError as error:
            raise GGUFError(f"{self.path}: cannot be mapped: {error.strerror}") from error


def _open_regular(path: Path) -> FileIO:
    """The regular file `path`; a pipe or device is refused without waiting for it."""
    try:
        return FileIO(path, "rb", opener=regular_only(GGUFError(f"{path}: is not a regular file")))
    except FileNotFoundError as error:
        raise GGUFError(f"{path}: there is no such file") from error
    except IsADirectoryError as error:
        raise GGUFError(f"{path}: is a directory, not a GGUF file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise GGUFError(f"{path}: cannot be opened: {reason}") from error


def _read_version(cursor: Cursor) -> int:
    """Check the magic number, find the byte order and return the version."""
    magic = cursor.take(min(4, cursor.size), "the magic number")
    if magic in _OLD_MAGICS:
        raise GGUFError(
            f"{cursor.path}: has a format from before GGUF ({magic!r} at byte 0); convert it first"
        )
    if magic != MAGIC:
        what = f"it begins with {magic!r}" if magic else "it is empty"
        raise GGUFError(f"{cursor.path}: is not a GGUF file: {what}, at byte 0")
    start = cursor.offset
    version = cursor.u32("the version")
    # The byte order is not stored: a version with only its upper half set was written the other way round.
    if version and not version & 0xFFFF:
        cursor.set_byte_order(">")
        cursor.offset = start
        version = cursor.u32("the version")
    if version == 1:
        raise cursor.error("the version", "is 1, which is no longer read; convert the model anew", start)
    if version not in VERSIONS:
        raise cursor.error("the version", f"is {version}, but only 2 and 3 are known", start)
    return version


def _read_counts(cursor: Cursor) -> tuple[int, int]:
    """The number of tensors and of keys, none more than the file has room for."""
    start = cursor.offset
    tensors = cursor.u64("the number of tensors")
    keys = cursor.u64("the number of keys")
    for field, place, count, least, limit in (
        ("the number of tensors", start, tensors, _MIN_TENSOR_BYTES, MAX_TENSORS),
        ("the number of keys", start + 8, keys, _MIN_KEY_BYTES, MAX_KEYS),
    ):
        if count * least > cursor.remaining:
            raise cursor.error(field, f"is {count}, but only {cursor.remaining} bytes follow", place)
        if count > limit:
            raise cursor.error(field, f"is {count}, but at most {limit} are allowed", place)
    return tensors, keys


def _read_entries(cursor: Cursor, count: int) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for index in range(count):
        start = cursor.offset
        raw = cursor.string(f"key {index}", MAX_KEY_BYTES)
        key = raw.decode("utf-8", "replace")
        if not is_key(key):
            raise cursor.error(f"key {index}", f"is not a name: {raw[:64]!r}", start)
        if key in entries:
            raise cursor.error(f"key {index}", f"is the second one named {key!r}", start)
        entries[key] = _read_entry(cursor, repr(key))
    return entries


def _read_entry(cursor: Cursor, key: str) -> Entry:
    """Step over one value."""
    type_ = _value_type(cursor, f"the type of {key}")
    if type_ == ValueType.ARRAY:
        return _read_array_entry(cursor, key)
    start = cursor.offset
    if type_ == ValueType.STRING:
        cursor.skip(cursor.string_length(key), key)
    else:
        cursor.skip(SCALAR_SIZES[type_], key)
    if type_ == ValueType.BOOL:
        _check_bools(cursor, start, key)
    return Entry(type_, type_, 1, start, cursor.offset)


def _read_array_entry(cursor: Cursor, key: str) -> Entry:
    """Step over an array; its strings are walked, its numbers are not looked at."""
    place = cursor.offset
    element = _value_type(cursor, f"the element type of {key}")
    if element == ValueType.ARRAY:
        raise cursor.error(
            f"the element type of {key}", "is array: arrays of arrays are not supported", place
        )
    place = cursor.offset
    count = cursor.u64(f"the length of {key}")
    least = SCALAR_SIZES.get(element, 8)
    if count * least > cursor.remaining:
        problem = f"is {count}, but only {cursor.remaining} bytes follow"
        raise cursor.error(f"the length of {key}", problem, place)
    limit = MAX_ARRAY_STRINGS if element == ValueType.STRING else MAX_ARRAY_ELEMENTS
    if count > limit:
        raise cursor.error(f"the length of {key}", f"is {count}, but at most {limit} is allowed", place)
    start = cursor.offset
    if element == ValueType.STRING:
        cursor.skip_strings(count, key)
    else:
        cursor.skip(count * least, key)
    if element == ValueType.BOOL:
        _check_bools(cursor, start, key)
    return Entry(ValueType.ARRAY, element, count, start, cursor.offset)


def _value_type(cursor: Cursor, field: str) -> ValueType:
    start = cursor.offset
    number = cursor.u32(field)
    if number not in _VALUE_TYPES:
        raise cursor.error(field, f"is {number}, which is no known type", start)
    return _VALUE_TYPES[number]


def _check_bools(cursor: Cursor, start: int, key: str) -> None:
    end = cursor.offset
    cursor.offset = start
    if wrong := cursor.take(end - start, key).translate(None, b"\0\1"):
        raise cursor.error(key, f"holds {wrong[0]}, which is neither true nor false", start)


def _alignment(cursor: Cursor, entries: Mapping[str, Entry]) -> int:
    entry = entries.get(ALIGNMENT_KEY)
    if entry is None:
        return DEFAULT_ALIGNMENT
    if entry.type != ValueType.UINT32:
        raise cursor.error(repr(ALIGNMENT_KEY), f"must be a uint32, but is {describe(entry)}", entry.start)
    end = cursor.offset
    cursor.offset = entry.start
    alignment = cursor.u32(ALIGNMENT_KEY)
    cursor.offset = end
    if alignment & (alignment - 1) or not MIN_ALIGNMENT <= alignment <= MAX_ALIGNMENT:
        problem = f"is {alignment}, but must be a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}"
        raise cursor.error(repr(ALIGNMENT_KEY), problem, entry.start)
    return alignment


def _read_tensors(cursor: Cursor, count: int, alignment: int) -> dict[str, TensorInfo]:
    """The tensors by name, with absolute offsets, each within the file and none over another."""
    # Dimensions, type and offset of a tensor of n dimensions.
    layouts = [struct.Struct(f"{cursor.order}{n}QIQ") for n in range(MAX_DIMENSIONS + 1)]
    relative: list[TensorInfo] = []
    names: set[str] = set()
    for index in range(count):
        start = cursor.offset
        relative.append(_read_tensor(cursor, index, layouts))
        name = relative[-1].name
        if name in names:
            raise cursor.error(f"tensor {index}", f"is the second one named {name!r}", start)
        names.add(name)
    base = padded(cursor.offset, alignment)
    tensors = {t.name: _place(cursor, t, base, alignment) for t in relative}
    _check_overlaps(cursor, tensors.values())
    return tensors


def _read_tensor(cursor: Cursor, index: int, layouts: list[struct.Struct]) -> TensorInfo:
    """One tensor's description; its offset is still relative to the data."""
    start = cursor.offset
    raw = cursor.string(f"the name of tensor {index}", MAX_NAME_BYTES)
    if not is_tensor_name(raw):
        raise cursor.error(f"the name of tensor {index}", f"is not a tensor's name: {raw!r}", start)
    name = raw.decode("ascii")
    field = f"tensor {name!r}"
    start = cursor.offset
    dimensions = cursor.u32(f"the number of dimensions of {field}")
    if dimensions > MAX_DIMENSIONS:
        problem = f"is {dimensions}, but at most {MAX_DIMENSIONS} is allowed"
        raise cursor.error(f"the number of dimensions of {field}", problem, start)
    start = cursor.offset
    *reversed_shape, type_id, offset = cursor.unpack(layouts[dimensions], field)
    shape = tuple(reversed(reversed_shape))
    type_ = _tensor_type(cursor, type_id, field, start + 8 * dimensions)
    return TensorInfo(name, type_, shape, offset, _tensor_nbytes(cursor, type_, shape, field, start))


def _tensor_type(cursor: Cursor, number: int, field: str, start: int) -> GGMLType:
    if number in REMOVED_TYPES:
        problem = f"is {number} ({REMOVED_TYPES[number]}), which is no longer in use; quantise the model anew"
        raise cursor.error(f"the type of {field}", problem, start)
    if number not in _TYPES:
        raise cursor.error(f"the type of {field}", f"is {number}, which is no known type", start)
    return _TYPES[number]


def _tensor_nbytes(cursor: Cursor, type_: GGMLType, shape: tuple[int, ...], field: str, start: int) -> int:
    try:
        # A dimension of zero must not hide others that no 64-bit stride can hold.
        extent = type_.nbytes(tuple(length or type_.block_size for length in shape))
    except ValueError as error:
        raise cursor.error(f"the shape of {field}", f"is wrong: {error}", start) from error
    if extent > MAX_INT64:
        raise cursor.error(f"the shape of {field}", f"is {shape}, which takes {extent} bytes", start)
    return type_.nbytes(shape)


def _place(cursor: Cursor, info: TensorInfo, base: int, alignment: int) -> TensorInfo:
    """The tensor with its offset counted from the beginning of the file, checked to lie within it."""
    if info.offset % alignment:
        problem = f"is {info.offset}, which is not a multiple of the alignment {alignment}"
        raise GGUFError(f"{cursor.path}: the offset of tensor {info.name!r} from byte {base} {problem}")
    start = base + info.offset
    if start + info.nbytes > cursor.size:
        problem = f"takes {info.nbytes} bytes, but the file ends at byte {cursor.size}"
        raise cursor.error(f"tensor {info.name!r}", problem, start)
    return TensorInfo(info.name, info.type, info.shape, start, info.nbytes)


def _check_overlaps(cursor: Cursor, tensors: Iterable[TensorInfo]) -> None:
    end, before = 0, ""
    for info in sorted((t for t in tensors if t.nbytes), key=lambda t: t.offset):
        if info.offset < end:
            raise cursor.error(f"tensor {info.name!r}", f"lies over tensor {before!r}", info.offset)
        end, before = info.offset + info.nbytes, info.name
