"""The books of a cache: which cell holds which position of which sequences. Plain NumPy, no tensors."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BITS: NDArray[np.uint64] = np.left_shift(np.uint64(1), np.arange(64, dtype=np.uint64))
"""BITS[s] marks the cells of sequence s."""

Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]
Positions = NDArray[np.int32]


class Span(NamedTuple):
    """A row of neighbouring cells.

    Attributes:
        begin: number of the first.
        length: how many.
    """

    begin: int
    length: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens that have been given cells; arrays of one element per token.

    Attributes:
        follows: the state of the books, by their changes, after the batch before this one, if nothing else
            has changed since and this is its sequence's next token, which sees all of it; otherwise -1.
        horizons: the last positions that the tokens see, where these are not their own.
    """

    cells: Numbers
    positions: Positions
    bits: NDArray[np.uint64]
    follows: int = -1
    horizons: Positions | None = None


class Cells:
    """Positions and owners of a row of cells.

    Attributes:
        positions: int32 (cells,); means nothing in a free cell.
        members: uint64 (cells,), one bit for each sequence that owns the cell; 0 is free.
        used: one more than the number of the last cell in use.
        changes: counts what has been done to the books.
    """

    def __init__(self, count: int) -> None:
        self.positions = np.zeros(count, np.int32)
        self.members = np.zeros(count, np.uint64)
        self.used = 0
        self.changes = 0
        self._holes = 0

    @property
    def free(self) -> int:
        """How many cells belong to nobody."""
        return self.members.size - self.used + self._holes

    def free_from(self, begin: int, count: int) -> Numbers:
        """`count` free cells, in order, the first ones from `begin` on if so many are there.

        There must be as many in all.
        """
        if not self._holes:
            return np.arange(self.used, self.used + count)
        holes: Numbers = (self.members[begin : self.used] == 0).nonzero()[0][:count] + begin
        if holes.size == count:
            return holes
        more = count - holes.size
        if begin and self.used + more > self.members.size:
            return self.free_from(0, count)
        return np.concatenate((holes, np.arange(self.used, self.used + more)))

    def roomiest(self) -> Span:
        """The longest row of neighbouring free cells."""
        in_use = np.flatnonzero(self.members[: self.used])
        begins = np.concatenate(([0], in_use + 1))
        lengths = np.concatenate((in_use, [self.members.size])) - begins
        longest = lengths.argmax()
        return Span(int(begins[longest]), int(lengths[longest]))

    def span(self, bits: np.uint64) -> tuple[int, int]:
        """The first cell in use that belongs to one of the sequences, and one more than the last.

        Both are 0 if they have none.
        """
        owned = (self.members[: self.used] & bits) != 0
        first = int(owned.argmax()) if owned.size else 0
        if not owned.size or not owned[first]:
            return 0, 0
        return first, self.used - int(owned[::-1].argmax())

    def take(self, batch: Batch) -> None:
        """Gives free cells to the tokens of a batch."""
        self.changes += 1
        self.positions[batch.cells] = batch.positions
        self.members[batch.cells] = batch.bits
        last = int(batch.cells[-1]) + 1
        self._holes += max(last - self.used, 0) - batch.cells.size
        self.used = max(self.used, last)

    def append(self, cell: int, position: int, sequence: int) -> bool:
        """As `take` for one token, if the cell is free; otherwise nothing is done. Returns whether it was."""
        if cell >= self.members.size or self.members[cell]:
            return False
        self.changes += 1
        self.positions[cell] = position
        self.members[cell] = BITS[sequence]
        self._holes += max(cell + 1 - self.used, 0) - 1
        self.used = max(self.used, cell + 1)
        return True

    def owners(self) -> set[int]:
        """The sequences that have cells."""
        bits = np.bitwise_or.reduce(self.members[: self.used])
        return set(np.flatnonzero(BITS & bits).tolist())

    def of(self, sequence: int) -> Flags:
        """Which of the cells up to `used` belong to a sequence; bool (used,)."""
        owned: Flags = (self.members[: self.used] & BITS[sequence]) != 0
        return owned

    def held(self, sequence: int) -> Positions:
        """The positions that a sequence has, in no order."""
        return self.positions[: self.used][self.of(sequence)]

    def between(self, sequence: int, begin: int, end: int | None) -> Numbers:
        """The cells that hold positions begin … end - 1 of a sequence, or all from `begin` on."""
        positions = self.positions[: self.used]
        chosen = self.of(sequence)
        if begin > 0:
            chosen &= positions >= begin
        if end is not None:
            chosen &= positions < end
        cells: Numbers = chosen.nonzero()[0]
        return cells

    def drop(self, sequence: int, cells: Numbers) -> None:
        """Takes cells away from a sequence that owns them."""
        if not cells.size:
            return
        self.changes += 1
        left = self.members[cells] & ~BITS[sequence]
        self.members[cells] = left
        self._holes += cells.size - int(np.count_nonzero(left))
        if self.members[self.used - 1] == 0:
            self._count(self.used)

    def share(self, sequence: int, cells: Numbers) -> None:
        """Gives cells that are in use to one more sequence."""
        self.changes += 1
        self.members[cells] |= BITS[sequence]

    def give_back(self, batch: Batch, positions: Positions, dropped: list[tuple[int, Numbers]]) -> None:
        """Undoes `take`, then each `drop`; `positions` is what the batch's cells held before."""
        self.changes += 1
        self.members[batch.cells] = 0
        self.positions[batch.cells] = positions
        for sequence, cells in dropped:
            self.share(sequence, cells)
        self._count(self.members.size)

    def move(self, cells: Numbers, offset: int) -> None:
        """Notes that what cells hold is `offset` positions further on."""
        self.changes += 1
        self.positions[cells] += offset

    def _count(self, end: int) -> None:
        """Finds out anew what is used, knowing that nothing is from `end` on."""
        in_use = np.flatnonzero(self.members[:end])
        self.used = int(in_use[-1]) + 1 if in_use.size else 0
        self._holes = self.used - in_use.size


def padded(count: int, multiple: int) -> int:
    """The least multiple that is not below `count`."""
    return -(-count // multiple) * multiple


def hidden(cells: Cells, span: Span, batch: Batch, lowest: Positions | None) -> Flags:
    """Which cells of a span the tokens of a batch may not see; bool (tokens, span.length).

    A token sees the cells of its own sequence with positions from its `lowest` to its own or its horizon,
    both included.
    """
    seen = slice(span.begin, span.begin + span.length)
    last = batch.positions if batch.horizons is None else batch.horizons
    positions = cells.positions[seen]
    result = _foreign(cells.members[seen], batch.bits) | (positions > last[:, None])
    if lowest is not None:
        result |= positions < lowest[:, None]
    return result


def _foreign(members: NDArray[np.uint64], bits: NDArray[np.uint64]) -> Flags:
    """Which cells are not of the tokens' sequences; bool (tokens or 1, cells)."""
    result: Flags
    if bits.size == 1 or (bits == bits[0]).all():
        result = (members & bits[:1, None]) == 0
        return result
    if len(set(bits.tolist())) == bits.size:
        result = (members & bits[:, None]) == 0
        return result
    distinct, which = np.unique(bits, return_inverse=True)
    result = ((members & distinct[:, None]) == 0)[which]
    return result
