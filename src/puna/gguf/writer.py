"""Writing GGUF files: the data of the tensors is streamed, and the file appears whole or not at all."""

import os
import struct
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self, cast

from puna.errors import GGUFError
from puna.gguf.cursor import ByteOrder
from puna.gguf.metadata import Entry, Metadata, split_strings
from puna.gguf.types import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_ALIGNMENT,
    MAX_DIMENSIONS,
    MAX_KEY_BYTES,
    MIN_ALIGNMENT,
    SCALAR_CODES,
    VERSIONS,
    GGMLType,
    ValueType,
    is_key,
    is_tensor_name,
    padded,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from numpy.typing import NDArray

    Scalar = str | bytes | bool | int | float
    Buffer = ReadableBuffer | NDArray[Any]
    Writable = Scalar | Sequence[Scalar] | Buffer
    Data = Buffer | Iterable[Buffer]

# What `memoryview.format` says of the arrays that metadata can hold; C's long has the size it has.
_BUFFER_TYPES: Final = {code: type_ for type_, code in SCALAR_CODES.items()} | (
    {"l": ValueType.INT64, "L": ValueType.UINT64}
    if struct.calcsize("l") == 8
    else {"l": ValueType.INT32, "L": ValueType.UINT32}
)


@dataclass(frozen=True, slots=True)
class _Stored:
    """A value as it will be stored, without its type."""

    type: ValueType
    element: ValueType
    count: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    type: GGMLType
    shape: tuple[int, ...]
    nbytes: int
    data: "Data"


class GGUFWriter:
    """Collects metadata and tensors and writes them when it is closed.

    As a context manager it writes at the end of the block, and nothing at all when the block ends in an
    exception. The data of a tensor is read when the file is written, chunk by chunk, so a generator never
    has to hold more than one. It must already be in the file's byte order (see `puna.gguf.byteorder`).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        alignment: int = DEFAULT_ALIGNMENT,
        byte_order: ByteOrder = "<",
        version: int = VERSIONS[-1],
    ) -> None:
        """Prepare to write the file `path`, which is replaced if it is there.

        Raises:
            GGUFError: the alignment is not a power of two in the allowed range, or the version unknown.
        """
        if alignment & (alignment - 1) or not MIN_ALIGNMENT <= alignment <= MAX_ALIGNMENT:
            raise GGUFError(
                f"{path}: cannot be written with the alignment {alignment}: it must be a power of two"
            )
        if version not in VERSIONS:
            raise GGUFError(f"{path}: cannot be written as version {version}, only as 2 or 3")
        self.path = Path(path)
        self.alignment = alignment
        self.byte_order: ByteOrder = byte_order
        self.version = version
        self._values: dict[str, _Stored] = {}
        self._tensors: dict[str, _Tensor] = {}
        self._closed = False

    def add(self, key: str, value: "Writable", type: ValueType | None = None) -> None:
        """Add a metadata value.

        Args:
            key: its full name.
            value: a scalar, a sequence of scalars of one kind, or a one-dimensional buffer of numbers (such
                as a NumPy array). `bytes` are stored as a string, unchanged.
            type: the scalar's or the elements' type. By default that of a buffer is its own, a float is
                FLOAT32, a whole number UINT32 (in a sequence INT32), or else the first of UINT32, INT32,
                UINT64, INT64 that holds it.

        Raises:
            GGUFError: the key is empty or taken, or the value does not fit the type.
        """
        self._check_key(key)
        self._values[key] = self._encode(key, value, type)

    def copy_metadata(self, metadata: Metadata, *, without: Container[str] = ()) -> None:
        """Add every value of another file, exactly as it is there, but for the keys `without`.

        Raises:
            GGUFError: a key is taken.
        """
        for key in metadata:
            if key in without:
                continue
            entry = metadata.entry(key)
            if metadata.byte_order == self.byte_order:
                self._check_key(key)
                self._values[key] = _Stored(entry.type, entry.element, entry.count, metadata.raw(key))
            elif entry.element == ValueType.STRING:
                texts = split_strings(metadata.raw(key), entry.count, metadata.byte_order)
                self.add(key, texts if entry.type == ValueType.ARRAY else texts[0], entry.element)
            else:
                self.add(key, metadata[key], entry.element)

    def add_tensor(self, name: str, type: GGMLType, shape: Sequence[int], data: "Data") -> None:
        """Add a tensor.

        Args:
            name: at most 64 letters, digits and `_ . : / + -`.
            type: its element type.
            shape: slowest axis first, at most 4 dimensions; rows must be whole blocks of the type.
            data: its stored bytes in C order, as one buffer or as an iterable of buffers, together
                exactly `type.nbytes(shape)` bytes; read when the file is written.

        Raises:
            GGUFError: the name is taken or not allowed, or the shape does not fit the type.
        """
        if name in self._tensors or not is_tensor_name(name.encode()):
            raise GGUFError(
                f"{self.path}: cannot be written: {name[:80]!r} is taken or does not name a tensor"
            )
        if len(shape) > MAX_DIMENSIONS:
            raise GGUFError(f"{self.path}: cannot be written: tensor {name!r} has {len(shape)} dimensions")
        try:
            nbytes = type.nbytes(shape)
        except ValueError as error:
            raise GGUFError(f"{self.path}: cannot be written: tensor {name!r}: {error}") from error
        self._tensors[name] = _Tensor(name, type, tuple(shape), nbytes, data)

    def close(self) -> None:
        """Write the file; harmless when repeated.

        The file appears under its name when all of it is on the disk. After an error nothing is left behind,
        and what was there before is as it was.

        Raises:
            GGUFError: the file cannot be written, or a tensor's data is not as long as its shape says.
        """
        if self._closed:
            return
        self._closed = True
        temporary = self.path.with_name(f".{token_hex(8)}.gguf.tmp")
        try:
            header = self._header()
            with temporary.open("xb") as file:
                self._write(file, header)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            raise GGUFError(f"{self.path}: cannot be written: {error.strerror}") from error
        finally:
            with suppress(OSError):
                temporary.unlink()
            self._tensors.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()

    def _check_key(self, key: str) -> None:
        if not is_key(key) or len(key.encode()) > MAX_KEY_BYTES:
            raise GGUFError(f"{self.path}: cannot be written: {key[:64]!r} is not a key")
        if key in self._values:
            raise GGUFError(f"{self.path}: cannot be written: the key {key!r} is there twice")

    def _encode(self, key: str, value: "Writable", type_: ValueType | None) -> _Stored:
        try:
            return _encode(value, type_, self.byte_order)
        except (struct.error, TypeError, ValueError, OverflowError, NotImplementedError) as error:
            raise GGUFError(f"{self.path}: cannot be written: the value of {key!r}: {error}") from error

    def _header(self) -> bytes:
        """Everything before the tensors' data, padded."""
        values = self._with_alignment()
        parts = [MAGIC, self._pack("IQQ", self.version, len(self._tensors), len(values))]
        for key, value in values.items():
            parts += (self._string(key.encode()), self._pack("I", value.type))
            if value.type == ValueType.ARRAY:
                parts.append(self._pack("IQ", value.element, value.count))
            parts.append(value.raw)
        offset = 0
        for tensor in self._tensors.values():
            dimensions = len(tensor.shape)
            parts.append(self._string(tensor.name.encode()))
            parts.append(
                self._pack(f"I{dimensions}QIQ", dimensions, *reversed(tensor.shape), tensor.type, offset)
            )
            offset += padded(tensor.nbytes, self.alignment)
        size = sum(map(len, parts))
        return b"".join((*parts, bytes(padded(size, self.alignment) - size)))

    def _with_alignment(self) -> dict[str, _Stored]:
        """The metadata with the alignment in it, where a reader has to be told."""
        told = self._values.get(ALIGNMENT_KEY)
        wanted = _encode(self.alignment, ValueType.UINT32, self.byte_order)
        if told is None:
            return (
                self._values
                if self.alignment == DEFAULT_ALIGNMENT
                else self._values | {ALIGNMENT_KEY: wanted}
            )
        if told != wanted:
            raise GGUFError(f"{self.path}: cannot be written: {ALIGNMENT_KEY!r} is not {self.alignment}")
        return self._values

    def _write(self, file: BinaryIO, header: bytes) -> None:
        file.write(header)
        for tensor in self._tensors.values():
            written = 0
            for chunk in _chunks(tensor.data):
                written += len(chunk)
                if written > tensor.nbytes:
                    raise self._wrong_length(tensor, f"at least {written}")
                file.write(chunk)
            if written != tensor.nbytes:
                raise self._wrong_length(tensor, f"{written}")
            file.write(bytes(padded(written, self.alignment) - written))

    def _wrong_length(self, tensor: _Tensor, length: str) -> GGUFError:
        expected = f"{tensor.type.name} {tensor.shape} takes {tensor.nbytes} bytes"
        return GGUFError(
            f"{self.path}: cannot be written: tensor {tensor.name!r}: {expected}, but {length} came"
        )

    def _pack(self, layout: str, *values: int) -> bytes:
        return struct.pack(self.byte_order + layout, *values)

    def _string(self, raw: bytes) -> bytes:
        return self._pack("Q", len(raw)) + raw


def metadata_of(
    values: "Mapping[str, Writable]", *, types: Mapping[str, ValueType] | None = None
) -> Metadata:
    """Metadata that is in no file, with the same accessors.

    Args:
        values: as for `GGUFWriter.add`, by full name.
        types: the types of those values that should not have the default one.

    Raises:
        GGUFError: a value does not fit its type.
    """
    writer = GGUFWriter("metadata")
    entries: dict[str, Entry] = {}
    parts: list[bytes] = []
    end = 0
    for key, value in values.items():
        writer.add(key, value, (types or {}).get(key))
        stored = writer._values[key]
        entries[key] = Entry(stored.type, stored.element, stored.count, end, end + len(stored.raw))
        parts.append(stored.raw)
        end += len(stored.raw)
    return Metadata("the metadata", b"".join(parts), "<", entries)


def _encode(value: "Writable", type_: ValueType | None, order: ByteOrder) -> _Stored:
    if isinstance(value, str | bytes | bool | int | float):
        element = type_ if type_ is not None else _scalar_type(value)
        return _Stored(element, element, 1, _encode_all([value], element, order))
    if isinstance(value, Sequence) and not isinstance(value, bytearray | memoryview):
        scalars = value
        element = type_ if type_ is not None else _element_type(scalars)
    else:
        view = memoryview(cast("ReadableBuffer", value))
        if view.ndim != 1 or view.format not in _BUFFER_TYPES:
            raise TypeError(f"a buffer of {view.ndim} dimensions and format {view.format!r} cannot be stored")
        scalars = view.tolist()
        element = type_ if type_ is not None else _BUFFER_TYPES[view.format]
    return _Stored(ValueType.ARRAY, element, len(scalars), _encode_all(scalars, element, order))


def _encode_all(values: "Sequence[Scalar]", element: ValueType, order: ByteOrder) -> bytes:
    if element == ValueType.ARRAY:
        raise TypeError("arrays of arrays cannot be stored")
    if element == ValueType.STRING:
        texts = [_text(value) for value in values]
        return b"".join(part for text in texts for part in (struct.pack(order + "Q", len(text)), text))
    if any(isinstance(value, bool) != (element == ValueType.BOOL) for value in values):
        raise TypeError(f"it does not consist of {element.name} values")
    return struct.pack(f"{order}{len(values)}{SCALAR_CODES[element]}", *values)


def _text(value: object) -> bytes:
    if not isinstance(value, str | bytes):
        raise TypeError(f"it does not consist of STRING values: {value!r}")
    return value.encode() if isinstance(value, str) else value


def _scalar_type(value: "Scalar") -> ValueType:
    if isinstance(value, bool):
        return ValueType.BOOL
    if isinstance(value, float):
        return ValueType.FLOAT32
    return _integer_type(value, value, ValueType.UINT32) if isinstance(value, int) else ValueType.STRING


def _element_type(values: "Sequence[Scalar]") -> ValueType:
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return ValueType.BOOL
    if kinds and kinds <= {str, bytes}:
        return ValueType.STRING
    if kinds == {int}:
        numbers = cast("Sequence[int]", values)
        return _integer_type(min(numbers), max(numbers), ValueType.INT32)
    if kinds and kinds <= {int, float}:
        return ValueType.FLOAT32
    raise TypeError("its elements' type cannot be told, name it")


def _integer_type(low: int, high: int, first: ValueType) -> ValueType:
    """The first type that holds the numbers from `low` to `high`."""
    ranges = {
        ValueType.UINT32: (0, 2**32),
        ValueType.INT32: (-(2**31), 2**31),
        ValueType.UINT64: (0, 2**64),
        ValueType.INT64: (-(2**63), 2**63),
    }
    for type_ in (first, *ranges):
        if ranges[type_][0] <= low and high < ranges[type_][1]:
            return type_
    raise OverflowError(f"no type holds the numbers from {low} to {high}")


def _chunks(data: "Data") -> Iterator[memoryview]:
    """The data as views of bytes."""
    try:
        view = memoryview(cast("ReadableBuffer", data))
    except TypeError:
        for chunk in cast("Iterable[ReadableBuffer]", data):
            yield _bytes_view(memoryview(chunk))
    else:
        yield _bytes_view(view)


def _bytes_view(view: memoryview) -> memoryview:
    try:
        return view.cast("B")
    except TypeError:
        # Only contiguous views of single native numbers can be looked at as bytes in place.
        return memoryview(view.tobytes())


def _sync_folder(folder: Path) -> None:
    """Put the new name on the disk, where the system can do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
