"""Tensors made of those in files: rows of several as one, rows in another order, other numbers.

Everything is read a piece at a time, see `puna.convert.content`.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from puna.convert.content import Content, Source
from puna.convert.elements import element_type, floats
from puna.convert.safetensors import SIZES


@dataclass(frozen=True, slots=True)
class Made:
    """Data that is made of others', see `Content`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * SIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class Gathered(Made):
    """Rows of other tensors, one run after the other.

    Attributes:
        runs: tensors, and which of their rows: the first, and the one behind the last.
    """

    runs: tuple[tuple[Source, int, int], ...]

    def chunks(self) -> Iterator[bytes]:
        return self.rows(0, prod(self.shape[:-1]))

    def rows(self, begin: int, end: int) -> Iterator[bytes]:
        for source, first, last in self.runs:
            if begin < last - first and end > 0:
                yield from source.rows(first + max(begin, 0), min(first + end, last))
            begin, end = begin - (last - first), end - (last - first)


def stacked(name: str, sources: Sequence[Source]) -> Gathered:
    """Tensors of one shape and type as one, with one more axis in front."""
    first = sources[0]
    runs = tuple((source, 0, prod(source.shape[:-1])) for source in sources)
    return Gathered(name, first.dtype, (len(sources), *first.shape), first.file, runs)


def sections(source: Source, count: int, rows: Mapping[str, int]) -> dict[str, Gathered]:
    """A tensor whose rows are those of `count` matrices one after the other, each of these cut in parts.

    Args:
        rows: of the parts of each matrix, by the names of the results, which are (count, rows, width).
    """
    together, width, found, begin = sum(rows.values()), source.shape[-1], {}, 0
    for name, size in rows.items():
        starts = range(begin, count * together, together)
        runs = tuple((source, start, start + size) for start in starts)
        found[name] = Gathered(name, source.dtype, (count, size, width), source.file, runs)
        begin += size
    return found


CODES: dict[int, Literal["H", "I", "Q"]] = {2: "H", 4: "I", 8: "Q"}
"""What `memoryview.cast` calls elements of so many bytes."""


@dataclass(frozen=True, slots=True)
class Transposed(Made):
    """Columns of matrices as rows.

    Attributes:
        source: (count, rows, columns), of which one matrix at a time is in memory.
        columns: which of them.
    """

    source: Source
    columns: range

    def chunks(self) -> Iterator[bytes]:
        count, rows, columns = self.source.shape
        code = CODES[SIZES[self.dtype]]
        for number in range(count):
            matrix = memoryview(b"".join(self.source.rows(number * rows, (number + 1) * rows))).cast(code)
            for column in self.columns:
                yield matrix[column::columns].tobytes()


def transposed(name: str, source: Source, columns: range) -> Transposed:
    """Those columns of a tensor (count, rows, columns) as (count, columns, rows)."""
    shape = (source.shape[0], len(columns), source.shape[1])
    return Transposed(name, source.dtype, shape, source.file, source, columns)


@dataclass(frozen=True, slots=True)
class Padded(Made):
    """A matrix with rows of zeros behind its own."""

    source: Source

    def chunks(self) -> Iterator[bytes]:
        yield from self.source.chunks()
        for _ in range(self.shape[0] - self.source.shape[0]):
            yield bytes(self.shape[1] * SIZES[self.dtype])


def padded(source: Source, rows: int) -> Padded:
    """A matrix with as many rows as that, of which it has no more."""
    return Padded(source.name, source.dtype, (rows, source.shape[1]), source.file, source)


@dataclass(frozen=True, slots=True)
class Reshaped(Made):
    """The same numbers in another shape."""

    source: Content

    def chunks(self) -> Iterator[bytes]:
        return self.source.chunks()


def squeezed(source: Content) -> Reshaped:
    """A tensor without its axes of one element, but for the first and the last."""
    first, *middle, last = source.shape
    shape = (first, *(size for size in middle if size > 1), last)
    return Reshaped(source.name, source.dtype, shape, source.file, source)


def cut(source: Source, names: Sequence[str]) -> list[Content]:
    """A matrix or a vector cut into equal parts along its first axis, each with a name."""
    count, *rest = source.shape
    size = count // len(names)
    if not rest:
        return [
            Run(name, source.dtype, (size,), source.file, source, part * size)
            for part, name in enumerate(names)
        ]
    rows = prod(rest[:-1]) * size
    return [
        Gathered(name, source.dtype, (size, *rest), source.file, ((source, part * rows, (part + 1) * rows),))
        for part, name in enumerate(names)
    ]


def reshaped(source: Source, shape: tuple[int, ...]) -> Gathered:
    """The same data with other axes, as many numbers in all."""
    return Gathered(source.name, source.dtype, shape, source.file, ((source, 0, prod(source.shape[:-1])),))


def slices(source: Source, axis: int, names: Sequence[str]) -> list[Gathered]:
    """A tensor of at least one axis more than `axis` + 1, cut into its slices there, each with a name."""
    before, count, after = source.shape[:axis], source.shape[axis], source.shape[axis + 1 :]
    rows = prod(after[:-1])
    return [
        Gathered(
            name,
            source.dtype,
            (*before, *after),
            source.file,
            tuple(
                (source, (place * count + index) * rows, (place * count + index + 1) * rows)
                for place in range(prod(before))
            ),
        )
        for index, name in enumerate(names)
    ]


@dataclass(frozen=True, slots=True)
class Run(Made):
    """Some numbers of a vector, which is read whole.

    Attributes:
        first: the number of the first.
    """

    source: Source
    first: int

    def chunks(self) -> Iterator[bytes]:
        size = SIZES[self.dtype]
        yield b"".join(self.source.chunks())[self.first * size :][: self.nbytes]


@dataclass(frozen=True, slots=True)
class Paired(Made):
    """The rows of each head from two halves to pairs of one of each, as rotary embeddings of pairs want them.

    Attributes:
        source: a matrix of as many rows as all heads have dimensions, or a vector.
        heads: how many; an even number of rows belongs to each.
    """

    source: Source
    heads: int

    def chunks(self) -> Iterator[bytes]:
        size = self.shape[0] // self.heads
        if len(self.shape) == 1:
            whole = b"".join(self.source.chunks())
            step = len(whole) // self.heads
            heads: Iterable[bytes] = (whole[at : at + step] for at in range(0, len(whole), step))
        else:
            heads = (b"".join(self.source.rows(head * size, (head + 1) * size)) for head in range(self.heads))
        return (_paired(head, size) for head in heads)


def _paired(head: bytes, rows: int) -> bytes:
    middle, width = len(head) // 2, len(head) // rows
    starts = range(0, middle, width)
    return b"".join(head[at + half : at + half + width] for at in starts for half in (0, middle))


def paired(source: Source, heads: int) -> Paired:
    """A tensor with the rows of each head in pairs."""
    return Paired(source.name, source.dtype, source.shape, source.file, source, heads)


@dataclass(frozen=True, slots=True)
class Shifted(Made):
    """Numbers with the same number added to each, in single precision."""

    source: Content
    offset: float

    def chunks(self) -> Iterator[bytes]:
        for chunk in floats(self.source.dtype, self.source.chunks()):
            numbers = array("f", chunk)
            yield array("f", [number + self.offset for number in numbers]).tobytes()


def shifted(source: Content, offset: float) -> Shifted:
    """A tensor with `offset` added to each number. Raises: FormatError for elements that are no numbers."""
    element_type(source, None)
    return Shifted(source.name, "F32", source.shape, source.file, source, offset)


@dataclass(frozen=True, slots=True)
class Constant(Made):
    """Numbers in single precision that are in no file."""

    data: bytes

    def chunks(self) -> Iterator[bytes]:
        yield self.data


def constant(name: str, numbers: Sequence[float]) -> Constant:
    """A vector."""
    return Constant(name, "F32", (len(numbers),), "config.json", array("f", numbers).tobytes())
