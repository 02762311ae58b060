"""Writing the quantized file: piece by piece, on all processors. Runs in a process of its own.

A file that llama.cpp would write of the same model is the same to the byte.
"""

import os
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from puna.errors import FormatError
from puna.ggml import Library
from puna.ggml.quantizing import is_valid, quantized, widened
from puna.gguf import GGMLType, GGUFFile, GGUFWriter, TensorInfo
from puna.quantize.importance import Importance, weights_for
from puna.quantize.plan import Plan

PIECE_ELEMENTS = 1 << 16
"""About how many elements a thread quantizes at once: 256 KiB of float32, a fraction of most matrices."""

_VERSION = 2  # `GGML_QNT_VERSION` of ggml.h
_MAX_TEXT = 127  # bytes of a text that llama.cpp notes of an importance matrix


@dataclass(frozen=True, slots=True)
class NamedImportance:
    """An importance matrix and what to call it in the file."""

    name: str
    matrix: Importance


def rewrite(
    file: GGUFFile,
    target: Path,
    plan: Plan,
    library: Library,
    seen: Callable[[int], None],
    importance: NamedImportance | None = None,
) -> None:
    """Write `file` to `target` with the types of the plan.

    Args:
        seen: told the number of bytes after each piece of the source.

    Raises:
        FormatError: the file changes, or holds numbers that are infinite or none; or the importance matrix is
            one of another model.
        GGUFError: the target cannot be written.
    """
    weights = weights_for(importance.matrix, file.tensors.values()) if importance else {}
    noted = {
        "general.quantization_version": _VERSION,
        "general.file_type": plan.wanted.number,
        **(_notes(importance) if importance else {}),
    }
    threads = usable_processors()
    with file.path.open("rb") as source, ThreadPoolExecutor(threads) as pool:
        reader = _Reader(source, file.path, seen)
        with GGUFWriter(target, alignment=file.alignment, version=file.version) as writer:
            writer.copy_metadata(file.metadata, without=noted)
            for key, value in noted.items():
                writer.add(key, value)
            for name, type_ in plan.types.items():
                tensor = file.tensors[name]
                work = _Work(library, tensor, type_, weights.get(name))
                writer.add_tensor(name, type_, tensor.shape, _content(work, reader, pool, 2 * threads))


def usable_processors() -> int:
    """How many processors this process may run on."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    return len(os.sched_getaffinity(0))


def _notes(importance: NamedImportance) -> Mapping[str, str | int]:
    matrix = importance.matrix
    notes: dict[str, str | int] = {"quantize.imatrix.file": _cut(importance.name)}
    if matrix.datasets:
        notes["quantize.imatrix.dataset"] = _cut(matrix.datasets[0])
    notes["quantize.imatrix.entries_count"] = len(matrix.sums)
    if matrix.chunks:
        notes["quantize.imatrix.chunks_count"] = matrix.chunks
    return notes


def _cut(text: str) -> str:
    return text.encode()[:_MAX_TEXT].decode("utf-8", "ignore")


class _Reader:
    """Reads the source in the order in which it is written."""

    def __init__(self, source: BufferedReader, path: Path, seen: Callable[[int], None]) -> None:
        self._source, self._path, self._seen = source, path, seen
        self._done = 0

    def read(self, offset: int, size: int) -> bytearray:
        content = bytearray(size)
        self._source.seek(offset)
        if self._source.readinto(content) != size:
            raise FormatError(f"{self._path}: ends before byte {offset + size}: it has changed meanwhile")
        self._done += size
        self._seen(self._done)
        return content


@dataclass(frozen=True, slots=True)
class _Work:
    """A tensor and what is to become of it.

    Attributes:
        weights: how much each column matters, for each of its matrices.
    """

    library: Library
    tensor: TensorInfo
    type: GGMLType
    weights: "array[float] | None"

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Its rows in pieces that are all of one matrix: the first, and how many."""
        columns = self.tensor.shape[-1] if self.tensor.shape else 1
        rows = self.tensor.elements // columns if columns else 0
        matrix = self.tensor.shape[-2] if len(self.tensor.shape) > 1 else 1
        most = max(1, PIECE_ELEMENTS // max(columns, 1))
        for first in range(0, rows, matrix):
            end = min(first + matrix, rows)
            yield from ((row, min(most, end - row)) for row in range(first, end, most))

    def convert(self, content: bytearray, row: int) -> bytearray:
        """Rows, of which the first is `row`, in the new type."""
        tensor, type_ = self.tensor, self.type
        if not is_valid(self.library, tensor.type, content):
            raise FormatError(f"tensor {tensor.name!r} holds numbers that are infinite or none at all")
        columns = tensor.shape[-1]
        count = len(content) // tensor.type.type_size
        floats = widened(self.library, tensor.type, content, count)
        size = type_.nbytes((count // columns, columns))
        stored = quantized(self.library, type_, floats, columns, size, self._columns(row))
        if not is_valid(self.library, type_, stored):
            raise FormatError(f"tensor {tensor.name!r} holds numbers that are too large for {type_.name}")
        return stored

    def _columns(self, row: int) -> "array[float] | None":
        """The weights of the columns of the matrix that a row is in."""
        if self.weights is None:
            return None
        columns = self.tensor.shape[-1]
        first = row // self.tensor.shape[-2] * columns
        return self.weights[first : first + columns]


def _content(work: _Work, reader: _Reader, pool: ThreadPoolExecutor, most: int) -> Iterator[bytearray]:
    """The tensor's new content in order, with at most so many pieces in memory besides the one read."""
    tensor = work.tensor
    row_size = tensor.type.nbytes(tensor.shape[-1:])
    waiting: deque[Future[bytearray]] = deque()
    for row, count in work.pieces():
        content = reader.read(tensor.offset + row * row_size, count * row_size)
        if work.type == tensor.type:
            yield content
            continue
        waiting.append(pool.submit(work.convert, content, row))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
