"""Causal caches: a token sees its own sequence's earlier tokens, all of them or the latest."""

from collections.abc import Hashable, Sequence, Set
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from puna.errors import InvalidOption
from puna.kvcache.cache import MAX_SEQUENCES, CacheFull, History, Integers, Member, Shift, ShiftRefused
from puna.kvcache.cells import BITS, Batch, Cells, Numbers, Positions, Span, padded
from puna.kvcache.history import CausalHistory, Ledger
from puna.kvcache.storage import Storage
from puna.ml import Backend, Context, DType

# Spans begin at multiples of this, so that sequences next to each other share graphs.
_ALIGNMENT = 256

# Longer beginnings are shared: copies would take more room and time than they save.
_COPIED = 512

_NOTHING = Batch(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.uint64))


_NOBODY = -1


class _Tail(NamedTuple):
    """Where the last batch came to lie.

    Attributes:
        sequence: whose it was; _NOBODY if it was of several.
        begin, end: between these all cells of its sequences are.
        changes: the state of the books after it.
    """

    sequence: int
    begin: int
    end: int
    changes: int


class Causal(Member):
    """Every token sees all earlier tokens of its sequence, and itself."""

    def __init__(self, shift: Shift | None = None) -> None:
        """Makes a cache without room.

        Args:
            shift: turns keys to other positions; without it, `remove` only cuts ends off.
        """
        self._shift = shift
        self._dropped: list[tuple[int, Numbers]] = []
        self._overwritten: Positions = np.empty(0, np.int32)
        self._tail = _Tail(_NOBODY, 0, 0, 0)

    # -- what subclasses change -----------------------------------------------------------------------

    def lowest_seen(self, positions: Positions) -> Positions | None:
        """The first positions that tokens at `positions` see; None where that is 0 for all."""
        return None

    def lowest_kept(self, position: int) -> int:
        """The first position that a sequence keeps when its next token comes to `position`."""
        return 0

    def sees_all(self, position: int) -> bool:
        """Whether a token at `position` sees all before it, and nothing need be let go when it comes."""
        return True

    def cells_needed(self, sequences: int, capacity: int, max_batch: int) -> int:
        """Cells for `sequences` sequences of `capacity` tokens, of which `max_batch` come at a time."""
        return sequences * capacity

    # -- the engine's view ----------------------------------------------------------------------------

    def init(self, backend: Backend, dtype: DType, max_sequences: int, capacity: int, max_batch: int) -> None:
        if min(max_sequences, capacity, max_batch) < 1 or max_sequences > MAX_SEQUENCES:
            raise InvalidOption(
                f"a cache for {max_sequences} sequences of {capacity} tokens in batches of {max_batch} is "
                f"not possible; each must be at least 1, and there are at most {MAX_SEQUENCES} sequences"
            )
        self._config = backend.cache_config()
        self._max_batch = max_batch
        count = padded(self.cells_needed(max_sequences, capacity, max_batch), self._config.cache_padding)
        storage = Storage(backend, dtype, count + 1, permuted=self._config.permuted_v)
        self._ledger = Ledger(Cells(count), storage, self.lowest_seen, _NOTHING)
        self._numbers = np.arange(count)

    @property
    def cells(self) -> Cells:
        """The books; to be looked at only."""
        return self._ledger.cells

    def start(self, positions: Integers, sequences: Integers) -> Hashable:
        where, whose = np.asarray(positions, np.int32), np.asarray(sequences, np.int64)
        if where.size == 1 and (shape := self._following(where, int(whose[0]))):
            return shape
        cells = self._ledger.cells
        self._dropped = []
        self._forget(where, whose)
        if cells.free < where.size:
            cells.give_back(_NOTHING, _NOTHING.positions, self._dropped)
            raise CacheFull(f"a batch of {where.size} tokens does not fit: {cells.free} cells are free")
        bits = BITS[whose]
        begin, end = self._owned(bits)
        batch = Batch(cells.free_from(begin if end else cells.roomiest().begin, where.size), where, bits)
        self._overwritten = cells.positions[batch.cells]
        cells.take(batch)
        self._ledger.batch = batch
        first, last = int(batch.cells[0]), int(batch.cells[-1]) + 1
        begin, end = min(begin, first) if end else first, max(end, last)
        self._tail = _Tail(int(whose[0]) if (whose == whose[0]).all() else _NOBODY, begin, end, cells.changes)
        return self._shape(begin, end)

    def _following(self, position: Positions, sequence: int) -> Span | None:
        """Takes the next cell for one more token of the sequence whose batch was the last to change anything.

        Most tokens come like this, and while a model computes, what the long way needs gets out of the
        processor's caches. None if it must be gone.
        """
        tail, cells = self._tail, self.cells
        if tail.sequence != sequence or tail.changes != cells.changes or not self.sees_all(int(position[0])):
            return None
        overwritten = cells.positions[tail.end : tail.end + 1].copy()
        if not cells.append(tail.end, int(position[0]), sequence):
            return None
        self._dropped, self._overwritten = [], overwritten
        self._ledger.batch = Batch(
            self._numbers[tail.end : tail.end + 1], position, BITS[sequence : sequence + 1], tail.changes
        )
        self._tail = _Tail(sequence, tail.begin, tail.end + 1, cells.changes)
        return self._shape(tail.begin, tail.end + 1)

    def _owned(self, bits: NDArray[np.uint64]) -> tuple[int, int]:
        """Between which cells all that the batch's sequences have lies; (0, 0) if they have nothing.

        Where so few are in use that one graph shows them all, they count as theirs.
        """
        used = self.cells.used
        if used <= _ALIGNMENT:
            return 0, used
        return self.cells.span(bits[0] if bits.size == 1 else np.bitwise_or.reduce(bits))

    def _forget(self, positions: Positions, sequences: Numbers) -> None:
        """Lets go of what no token to come will see."""

    def _forget_before(self, sequence: int, position: int) -> None:
        """Lets go of what a sequence need not keep when its next token comes to `position`."""
        begin = self.lowest_kept(position)
        if begin > 0:
            cells = self.cells.between(sequence, 0, begin)
            self.cells.drop(sequence, cells)
            self._dropped.append((sequence, cells))

    def _shape(self, first: int, end: int) -> Span:
        begin = first - first % _ALIGNMENT
        return Span(begin, padded(end, self._config.cache_padding) - begin)

    def look_ahead(self, horizons: Positions) -> None:
        self._ledger.batch = replace(self._ledger.batch, horizons=horizons)

    def undo(self) -> None:
        self.cells.give_back(self._ledger.batch, self._overwritten, self._dropped)
        self._ledger.batch = _NOTHING

    def trace(self, context: Context, tokens: int, shape: Hashable) -> History:
        if not isinstance(shape, Span):
            raise InvalidOption(f"{shape!r} is not a shape of this cache")
        rows = padded(tokens, self._config.mask_batch_padding)
        inputs = context.input()
        numbers = inputs.empty(DType.I64, tokens)
        return CausalHistory(
            self._ledger,
            context,
            tokens,
            shape,
            numbers,
            inputs.empty(self._config.mask_dtype, rows, shape.length),
        )

    def worst_case(self) -> Hashable:
        return Span(0, self.cells.members.size)

    def copy_prefix(self, source: int, target: int, length: int, *, apart: bool = False) -> None:
        cells, storage = self.cells, self._ledger.storage
        cells.drop(target, cells.between(target, 0, None))
        shared = cells.between(source, 0, length)
        apart = apart and self._config.copies and storage.copies
        if not apart or not 0 < shared.size <= min(_COPIED, cells.free // 2):
            cells.share(target, shared)
            return
        own = cells.free_from(cells.roomiest().begin, shared.size)
        storage.copy(shared, own)
        cells.take(Batch(own, cells.positions[shared], np.full(own.size, BITS[target])))

    def can_resume(self, sequence: int, position: int) -> bool:
        return self._complete(self.cells.held(sequence), position)

    @property
    def taken(self) -> int:
        return self.cells.members.size - self.cells.free

    def fits(self, growth: Sequence[tuple[int, int]]) -> bool:
        return sum(more for _, more in growth) <= self.cells.free

    def lies_together(self, tokens: int) -> bool:
        return tokens <= self.cells.roomiest().length

    def owners(self) -> set[int]:
        return self.cells.owners()

    def is_whole(self, sequence: int, length: int) -> bool:
        held = self.cells.held(sequence)
        return int(held.max(initial=-1)) + 1 == length and self._complete(held, length)

    def _complete(self, held: Positions, position: int) -> bool:
        """Whether `held` has all that a token at `position` may see of what is before it."""
        lowest = self.lowest_seen(np.array([position], np.int32))
        first = 0 if lowest is None else int(lowest[0])
        return int(np.count_nonzero((held >= first) & (held < position))) == position - first

    def close(self) -> None:
        self._ledger.storage.close()

    # -- removal --------------------------------------------------------------------------------------

    def check_remove(self, sequence: int, begin: int, end: int | None) -> None:
        if end is None or end <= begin:
            return
        moving = self.cells.between(sequence, end, None)
        if not moving.size:
            return
        if self._shift is None:
            raise ShiftRefused("this model's tokens cannot move to other positions")
        if (self.cells.members[moving] != BITS[sequence]).any():
            raise ShiftRefused(f"tokens behind position {end} are shared with another sequence")
        held = self.cells.held(sequence)
        left = np.concatenate((held[held < begin], held[held >= end] - (end - begin)))
        if not self._complete(left, int(left.max()) + 1):
            raise ShiftRefused(f"tokens before position {begin} that would be seen again are gone")

    def remove(self, sequence: int, begin: int, end: int | None = None) -> None:
        self.check_remove(sequence, begin, end)
        if end is not None and end <= begin:
            return
        self.cells.drop(sequence, self.cells.between(sequence, begin, end))
        if end is not None:
            self._move(self.cells.between(sequence, end, None), begin - end)

    def _move(self, cells: Numbers, offset: int) -> None:
        """Moves tokens by `offset` positions, in batches as large as the model's."""
        self.cells.move(cells, offset)
        if self._shift is not None:
            for begin in range(0, cells.size, self._max_batch):
                self._ledger.storage.rotate(cells[begin : begin + self._max_batch], offset, self._shift)


class _Limited(Causal):
    """A cache that lets go of tokens which no later token sees.

    Attributes:
        memory: the most tokens that a sequence keeps beside those of a batch.
    """

    memory: int

    def fits(self, growth: Sequence[tuple[int, int]]) -> bool:
        tokens = sum(more for _, more in growth)
        # What sequences have kept in the end, with what they let go of taken off, and one batch on its way.
        kept = sum(self._kept_more(sequence, more) for sequence, more in growth)
        return min(tokens, kept + min(tokens, self._max_batch)) <= self.cells.free

    def lies_together(self, tokens: int) -> bool:
        return super().lies_together(min(tokens, self.memory + self._max_batch))

    def sees_all(self, position: int) -> bool:
        return position < self.memory

    def _kept_more(self, sequence: int, tokens: int) -> int:
        """How many more cells a sequence keeps with so many more tokens; below 0 if it has more now."""
        held = int(np.count_nonzero(self.cells.of(sequence)))
        return min(held + tokens, self.memory) - held

    def _forget(self, positions: Positions, sequences: Numbers) -> None:
        first = _first_positions(positions, sequences)
        for sequence, position in first.items():
            self._forget_before(sequence, position)
        if self.cells.free < positions.size:
            self._forget_absent(first.keys())

    def _forget_absent(self, present: Set[int]) -> None:
        """The same for sequences that take no part in the batch: they stop where they stand."""
        for sequence in set(range(MAX_SEQUENCES)) - present:
            held = self.cells.held(sequence)
            if held.size:
                self._forget_before(sequence, int(held.max()) + 1)


class SlidingWindow(_Limited):
    """A token sees the latest `window` tokens of its sequence, itself included.

    The rule is that of transformers and llama.cpp: what is `window` or more positions back is hidden.
    """

    def __init__(self, window: int, shift: Shift | None = None, *, memory: int | None = None) -> None:
        """Makes a cache without room.

        Args:
            window: how many tokens are seen.
            shift: see `Causal`.
            memory: how many tokens are kept of each sequence, `window` if left out; with more of them a
                sequence can go back by the difference and resume.

        Raises:
            InvalidOption: the window is below 1, or the memory below the window.
        """
        super().__init__(shift)
        self._window = window
        self.memory = window if memory is None else memory
        if not 1 <= window <= self.memory:
            raise InvalidOption(f"a window of {window} tokens in a memory of {self.memory} is not possible")

    def lowest_seen(self, positions: Positions) -> Positions:
        return np.maximum(positions - (self._window - 1), 0)

    def lowest_kept(self, position: int) -> int:
        return position - (self.memory - 1)

    def sees_all(self, position: int) -> bool:
        return position < self._window

    def cells_needed(self, sequences: int, capacity: int, max_batch: int) -> int:
        return sequences * capacity if self.memory >= capacity else sequences * self.memory + max_batch


class Chunked(_Limited):
    """A token sees the earlier tokens of its own chunk: positions from a multiple of `chunk` on (Llama 4)."""

    def __init__(self, chunk: int, shift: Shift | None = None) -> None:
        """Makes a cache without room. Raises InvalidOption if `chunk` is below 1."""
        super().__init__(shift)
        if chunk < 1:
            raise InvalidOption(f"a chunk of {chunk} tokens is not possible")
        self._chunk = self.memory = chunk

    def lowest_seen(self, positions: Positions) -> Positions:
        return positions - positions % self._chunk

    def lowest_kept(self, position: int) -> int:
        return position - position % self._chunk

    def cells_needed(self, sequences: int, capacity: int, max_batch: int) -> int:
        return min(sequences * capacity, sequences * self._chunk + max_batch)


def _first_positions(positions: Positions, sequences: Numbers) -> dict[int, int]:
    """The lowest position of each sequence in a batch."""
    first: dict[int, int] = {}
    for sequence, position in zip(sequences.tolist(), positions.tolist(), strict=True):
        first[sequence] = min(position, first.get(sequence, position))
    return first
