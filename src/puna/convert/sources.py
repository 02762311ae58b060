"""Tensors made of those in files: rows of several as one, rows in another order, other numbers.

Everything is read a piece at a time, see `puna.convert.content`.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

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
        for source, begin, end in self.runs:
            yield from source.rows(begin, end)


def stacked(name: str, sources: Sequence[Source]) -> Gathered:
    """Tensors of one shape and type as one, with one more axis in front."""
    first = sources[0]
    runs = tuple((source, 0, prod(source.shape[:-1])) for source in sources)
    return Gathered(name, first.dtype, (len(sources), *first.shape), first.file, runs)


def halves(source: Source, names: Sequence[str]) -> list[Gathered]:
    """A tensor (n, 2 · rows, width) cut in two along its second axis: each (n, rows, width)."""
    count, both, width = source.shape
    rows = both // 2
    return [
        Gathered(
            name,
            source.dtype,
            (count, rows, width),
            source.file,
            tuple((source, n * both + half * rows, n * both + (half + 1) * rows) for n in range(count)),
        )
        for half, name in enumerate(names)
    ]


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
