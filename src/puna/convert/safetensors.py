"""Reading safetensors files, of which nothing is trusted.

A file is the length of its header (eight bytes, least significant first), the header, and the tensors' data.
The header is JSON: for each tensor its type, shape, and where its data begins and ends behind the header.
Source: the format's description in the safetensors project, README.md.
"""

import json
import os
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from puna.errors import FormatError
from puna.regular import regular_only

# The largest models have some hundred thousand tensors, described by some hundred bytes each.
_MAX_HEADER = 32 << 20
_MAX_DIMENSIONS = 8
_MAX_SIZE = 1 << 62
_CHUNK = 1 << 20

SIZES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
"""Bytes of an element of each type."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        dtype: a key of `SIZES`.
        shape: slowest axis first.
        path: of the file.
        file: what to call the file.
        offset: of its data in the file.
        nbytes: of its data.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    file: str
    offset: int
    nbytes: int

    def chunks(self) -> Iterator[bytes]:
        """Its data in pieces of whole elements. Raises: FormatError when the file cannot be read."""
        return self._read(0, self.nbytes)

    def rows(self, begin: int, end: int) -> Iterator[bytes]:
        """The data of some of the rows along the last axis, counted through all others.

        Raises:
            FormatError: the file cannot be read.
        """
        width = (self.shape[-1] if self.shape else 1) * SIZES[self.dtype]
        return self._read(begin * width, end * width)

    def _read(self, begin: int, end: int) -> Iterator[bytes]:
        rest = end - begin
        try:
            with _regular(self.path, self.file) as file:
                file.seek(self.offset + begin)
                while rest and (chunk := file.read(min(_CHUNK, rest))):
                    rest -= len(chunk)
                    yield chunk
        except OSError as error:
            raise FormatError(f"{self.file}: cannot be read: {error.strerror}") from error
        if rest:
            raise FormatError(f"{self.file}: {self.name[:100]!r} has been cut off")


def read_tensors(path: Path, file: str = "") -> dict[str, StoredTensor]:
    """The tensors of a file by name, in the order of their data.

    Args:
        file: what to call it; its own name if empty.

    Raises:
        FormatError: it is no sound safetensors file.
    """
    file = file or path.name
    try:
        with _regular(path, file) as opened:
            size = os.fstat(opened.fileno()).st_size
            header, begin = _header(file, opened, size)
    except OSError as error:
        raise FormatError(f"{file}: cannot be read: {error.strerror}") from error
    header.pop("__metadata__", None)
    tensors = [_tensor(path, file, name, entry, begin) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    _check_layout(file, tensors, begin, size)
    return {tensor.name: tensor for tensor in tensors}


def _regular(path: Path, file: str) -> BinaryIO:
    return open(path, "rb", opener=regular_only(FormatError(f"{file} is not a regular file")))


def _header(file: str, opened: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The header, and where the data begin."""
    start = opened.read(8)
    if len(start) < 8:
        raise FormatError(f"{file} is no safetensors file: it has {size} bytes")
    (length,) = struct.unpack("<Q", start)
    if not 2 <= length <= size - 8:
        raise FormatError(f"{file} is no safetensors file: a header of {length} bytes in {size}")
    if length > _MAX_HEADER:
        raise FormatError(f"{file}: its header has {length} bytes; {_MAX_HEADER} is the limit")
    return _decoded(file, opened.read(length)), 8 + length


def _decoded(file: str, text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise FormatError(f"{file} is no safetensors file: its header is no JSON object")
    try:
        header = json.loads(text, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{file}: its header is damaged: {str(error)[:100]}") from error
    return header if isinstance(header, dict) else {}


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        double, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{double[:60]!r} is there twice")
    return found


def _tensor(path: Path, file: str, name: str, entry: Any, begin: int) -> StoredTensor:
    def wrong(what: str) -> FormatError:
        return FormatError(f"{file}: the tensor {name[:100]!r} {what}")

    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise wrong("is not described by type, shape and offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise wrong(f"has the unknown type {str(dtype)[:20]!r}")
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise wrong("has no sensible shape")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise wrong("has no sensible offsets")
    nbytes = prod(shape) * SIZES[dtype]
    if offsets[1] - offsets[0] != nbytes:
        raise wrong(f"takes {nbytes} bytes, but its offsets are {offsets[0]} and {offsets[1]}")
    return StoredTensor(name, dtype, tuple(shape), path, file, begin + offsets[0], nbytes)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < _MAX_SIZE for value in values)


def _check_layout(file: str, tensors: list[StoredTensor], begin: int, size: int) -> None:
    """Data follow each other without holes, from the header to the end of the file."""
    end = begin
    for tensor in tensors:
        if tensor.offset != end:
            raise FormatError(
                f"{file}: the tensor {tensor.name[:100]!r} overlaps another, or a hole is before it"
            )
        end += tensor.nbytes
    if end != size:
        raise FormatError(f"{file}: its tensors end at byte {end}, but the file at {size}")
