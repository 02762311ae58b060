"""Importance matrices: how much each column of a matrix matters, from the activations that came in.

A file has, for a matrix of the model, the sums of the squared activations by column (`<name>.in_sum2`) and
how many rows were summed (`<name>.counts`); both once for each expert. Source: llama.cpp, tools/imatrix.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from reprlib import repr as brief
from sys import byteorder
from typing import Final

from puna.errors import FormatError
from puna.gguf import GGMLType, GGUFFile, GGUFWriter, Metadata
from puna.gguf.types import TensorInfo, ValueType

KIND: Final = "imatrix"
_DATASETS, _CHUNKS, _CHUNK = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
_SUMS, _COUNTS = ".in_sum2", ".counts"
MAX_VALUES: Final = 1 << 28
"""The most numbers that are read of one file: 1 GiB of them."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What was seen by one matrix, or by several of one shape: a layer's experts.

    Attributes:
        squares: sums of squares, column by column, matrix by matrix.
        counts: rows that were summed, for each matrix; one number may hold for all.
    """

    squares: "array[float]"
    counts: "array[float]"

    def means(self) -> "array[float]":
        """The mean squares; 1 for a matrix that saw nothing."""
        columns = len(self.squares) // len(self.counts)
        means = array("f")
        for number, count in enumerate(self.counts):
            part = self.squares[number * columns : (number + 1) * columns]
            means.extend(array("f", [value / count for value in part] if count else [1.0] * columns))
        return means


@dataclass(frozen=True, slots=True)
class Importance:
    """An importance matrix.

    Attributes:
        sums: by the name of the matrix.
        datasets: what the texts were called.
        chunks: how many pieces of text there were.
        chunk_size: their tokens.
    """

    sums: Mapping[str, Sums]
    datasets: tuple[str, ...]
    chunks: int
    chunk_size: int


def read_importance(path: Path) -> Importance:
    """Read a file.

    Raises:
        FormatError: it is no sound GGUF file, no importance matrix, or too large.
    """
    with GGUFFile.open(path) as file:
        metadata = file.metadata
        kind = metadata.string("general.type", "")
        if kind != KIND:
            raise FormatError(f"{path}: is no importance matrix: its general.type is {kind[:100]!r}")
        if sum(tensor.elements for tensor in file.tensors.values()) > MAX_VALUES:
            raise FormatError(f"{path}: has more than {MAX_VALUES} numbers, which are not read")
        return Importance(
            sums=dict(_read_sums(file)),
            datasets=_texts(metadata, _DATASETS),
            chunks=_number(metadata, _CHUNKS),
            chunk_size=_number(metadata, _CHUNK),
        )


def write_importance(path: Path, importance: Importance) -> None:
    """Write a file, which appears whole or not at all. Raises: GGUFError when it cannot be written."""
    with GGUFWriter(path) as writer:
        writer.add("general.type", KIND)
        writer.add(_DATASETS, importance.datasets, ValueType.STRING)
        writer.add(_CHUNKS, importance.chunks)
        writer.add(_CHUNK, importance.chunk_size)
        for name, sums in sorted(importance.sums.items()):
            count = len(sums.counts)
            shape = (count, len(sums.squares) // count)
            writer.add_tensor(name + _SUMS, GGMLType.F32, shape, _little_endian(sums.squares))
            writer.add_tensor(name + _COUNTS, GGMLType.F32, (count, 1), _little_endian(sums.counts))


def weights_for(importance: Importance, tensors: Iterable[TensorInfo]) -> dict[str, "array[float]"]:
    """The mean squares of the tensors that the matrix knows, by name.

    Raises:
        FormatError: the matrix is one of another model: it has another number of columns or experts.
    """
    found = {}
    for tensor in tensors:
        sums = importance.sums.get(tensor.name)
        if sums is None:
            continue
        experts = tensor.shape[0] if len(tensor.shape) > 2 else 1
        means = sums.means()
        if len(means) != experts * tensor.shape[-1]:
            raise FormatError(
                f"the importance matrix is one of another model: it has {len(means)} numbers for "
                f"{tensor.name!r}, whose {experts} x {tensor.shape[-1]} columns need as many"
            )
        found[tensor.name] = means
    return found


# These keys have no architecture before them, as those have that the metadata's accessors complete.


def _number(metadata: Metadata, key: str) -> int:
    value = metadata.get(key, 0)
    if not isinstance(value, int) or not 0 <= value < 1 << 32:
        raise metadata.error(key, f"must be a whole number from 0 up, but is {brief(value)}")
    return value


def _texts(metadata: Metadata, key: str) -> tuple[str, ...]:
    values = metadata.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise metadata.error(key, f"must be an array of strings, but is {brief(values)}")
    return tuple(map(str, values))


def _read_sums(file: GGUFFile) -> Iterator[tuple[str, Sums]]:
    for name in file.tensors:
        if not name.endswith((_SUMS, _COUNTS)):
            raise FormatError(f"{file.path}: {name!r} is no part of an importance matrix")
        matrix = name.removesuffix(_SUMS)
        if matrix != name:
            yield matrix, _checked(file, matrix)


def _checked(file: GGUFFile, matrix: str) -> Sums:
    if matrix + _COUNTS not in file.tensors:
        raise FormatError(f"{file.path}: has sums but no counts for {matrix!r}")
    squares, counts = (_floats(file, matrix + suffix) for suffix in (_SUMS, _COUNTS))
    if not counts or len(squares) % len(counts):
        raise FormatError(f"{file.path}: has {len(squares)} sums and {len(counts)} counts for {matrix!r}")
    if not all(isfinite(value) and value >= 0 for numbers in (squares, counts) for value in numbers):
        raise FormatError(f"{file.path}: the sums for {matrix!r} are not all finite numbers from 0 up")
    return Sums(squares, counts)


def _floats(file: GGUFFile, name: str) -> "array[float]":
    info = file.tensors[name]
    if info.type != GGMLType.F32:
        raise FormatError(f"{file.path}: {name!r} is {info.type.name} instead of F32")
    values = array("f", bytes(file.tensor_bytes(name)))
    if (file.byte_order == "<") != (byteorder == "little"):
        values.byteswap()
    return values


def _little_endian(values: "array[float]") -> bytes:
    if byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()
