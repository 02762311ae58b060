"""The cache of layers that carry a state from token to token, of a fixed size however long the text.

A state is that of a sequence after one of its tokens, in all layers, and lies in a slot. A batch reads the
states its sequences stand at and writes new ones into other slots, so that the old ones are still there: a
batch that fails has changed nothing, several sequences can go on from the same state, and a state that may be
wanted again is kept by leaving it where it is. Only from such states can a sequence be resumed:

- the one it stands at, and the one before its last batch;
- a few tokens before the end of each prompt, where another answer to the same prompt, or a next turn without
  what the model has thought, goes on;
- one in every so many tokens, for texts that only begin alike.

When slots are wanted, those of the latter kinds go, the one used longest ago first.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from puna.errors import InvalidOption
from puna.kvcache.cache import MAX_SEQUENCES, CacheFull, History, Integers, Member, ShiftRefused
from puna.ml import Backend, Context, DType, Tensor
from puna.ml.nn import Advance, LayerHistory

# The end of a prompt that templates write differently for the next turn, such as an opened or empty thought.
_BEFORE_END = 4
# A state is kept when so many tokens have come since the one kept last.
_APART = 1024
# Batches of more sequences are parted no further: each part is a piece of the graph of its own.
_PARTED_AT_MOST = 8

# A sequence that runs has a state that is read, one that is written, and one before the end of its prompt.
_RUNNING = 3
# Slots beside those, a few in any case, and what so many bytes hold.
_KEPT_LEAST, _KEPT_MOST = 4, MAX_SEQUENCES
_KEPT_BYTES = 256 << 20


class Run(NamedTuple):
    """Neighbouring tokens of a batch that a graph takes in one go: as many of each of several sequences."""

    sequences: int
    tokens: int


@dataclass(slots=True, eq=False)
class State:
    """What a sequence has become.

    Attributes:
        length: after how many of its tokens.
        slot: where it lies.
        before_end: it is kept because a prompt may have ended soon after it.
        used: when, by the cache's clock.
        kept: it stays when the sequence goes on.
    """

    length: int
    slot: int
    before_end: bool
    used: int
    kept: bool = False


class Stretch(NamedTuple):
    """Neighbouring tokens of one sequence in a batch.

    Attributes:
        first: position of the first of them.
        before_end: the state after them is to be kept.
    """

    sequence: int
    first: int
    tokens: int
    before_end: bool = False

    @property
    def end(self) -> int:
        """Position behind the last of them."""
        return self.first + self.tokens


@dataclass(slots=True)
class Slots:
    """What the cache and its graphs share.

    Attributes:
        backend: where states are stored.
        count: how many slots there are; one more is zero, the state of all sequences without tokens.
        read: the slot of each stretch of the batch last started from which it goes on.
        written: those that take the states after them.
    """

    backend: Backend
    count: int
    read: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    _stored: dict[tuple[int, str], Tensor] = field(default_factory=dict, init=False)
    _contexts: list[Context] = field(default_factory=list, init=False)

    def stored(self, layer: int, name: str, size: int) -> Tensor:
        """A layer's states, F32 (slots + 1, size), allocated when they are asked for first.

        Raises:
            InsufficientMemory: no room on the layer's device.
        """
        if (layer, name) not in self._stored:
            context = self.backend.new_context_size(1)
            self._contexts.append(context)
            self._stored[layer, name] = context.layer(layer).zeros(DType.F32, self.count + 1, size)
        return self._stored[layer, name]

    def close(self) -> None:
        """Frees the memory."""
        for context in self._contexts:
            context.close()
        self._contexts.clear()
        self._stored.clear()


@dataclass
class RecurrentHistory(History):
    """One graph's view of the states.

    Attributes:
        slots: the cache's.
        context: the graph.
        runs: the batch, piece by piece.
        read, written: inputs I32 (stretches,), slots.
    """

    slots: Slots
    context: Context
    runs: tuple[Run, ...]
    read: Tensor
    written: Tensor

    def layer(self, index: int) -> "RecurrentLayer":
        return RecurrentLayer(self, index)

    def fill(self) -> None:
        self._read[:] = self.slots.read
        self._written[:] = self.slots.written

    @cached_property
    def _read(self) -> NDArray[np.int32]:
        return self.read.array()

    @cached_property
    def _written(self) -> NDArray[np.int32]:
        return self.written.array()


class RecurrentLayer(LayerHistory):
    """One layer's states in one graph."""

    def __init__(self, history: RecurrentHistory, index: int) -> None:
        self._history = history
        self._index = index

    def carry(self, name: str, shape: Sequence[int], inputs: Sequence[Tensor], advance: Advance) -> Tensor:
        """See `LayerHistory`. Runs come in order: one may go on from what the one before it has written."""
        history = self._history
        stored = history.slots.stored(self._index, name, math.prod(shape)).on(history.context)
        results, token, stretch = [], 0, 0
        for sequences, tokens in history.runs:
            end, until = token + sequences * tokens, stretch + sequences
            states = stored.rows(history.read.slice(0, stretch, until)).reshape(sequences, *shape)
            parts = [_rows(x, token, end).reshape(sequences, tokens, *x.shape[1:]) for x in inputs]
            result, states = advance(states, *parts)
            new = states.reshape(sequences, math.prod(shape))
            history.context.forward(stored.set_rows(new, history.written.slice(0, stretch, until)))
            results.append(result.reshape(end - token, *result.shape[2:]))
            token, stretch = end, until
        return results[0].stack(0, *results[1:])


def _rows(x: Tensor, begin: int, end: int) -> Tensor:
    return x if end - begin == x.dim(0) else x.slice(0, begin, end)


class Recurrent(Member):
    """Every layer has the state that its sequence's tokens so far have left."""

    def __init__(self, size: int) -> None:
        """Makes a cache without room.

        Args:
            size: elements of one sequence's state, in all layers; of large ones fewer are kept.
        """
        self._kept = min(max(_KEPT_BYTES // (4 * size), _KEPT_LEAST), _KEPT_MOST)
        self._states: dict[int, list[State]] = {}
        self._before: dict[int, list[State]] = {}
        self._clock = 0

    # -- the engine's view ----------------------------------------------------------------------------

    def init(self, backend: Backend, dtype: DType, max_sequences: int, capacity: int, max_batch: int) -> None:
        if min(max_sequences, capacity, max_batch) < 1 or max_sequences > MAX_SEQUENCES:
            raise InvalidOption(
                f"a cache for {max_sequences} sequences of {capacity} tokens in batches of {max_batch} is "
                f"not possible; each must be at least 1, and there are at most {MAX_SEQUENCES} sequences"
            )
        self._max_sequences = max_sequences
        self._slots = Slots(backend, _RUNNING * max_sequences + self._kept)

    def start(self, positions: Integers, sequences: Integers) -> Hashable:
        stretches = list(_stretches(np.asarray(positions, np.int64), np.asarray(sequences, np.int64)))
        self._check(stretches)
        own = {stretch.sequence for stretch in stretches}
        before = {sequence: list(self._states.get(sequence, ())) for sequence in own}
        for sequence in own:
            self._settle(sequence)
        room, needed = self._room, len(own)
        if room < needed:
            self._restore(before)
            raise CacheFull(f"{needed} more states do not fit: {room} of {self._slots.count} are free")
        if len(stretches) == needed <= _PARTED_AT_MOST:
            parted = list(_parted(stretches))
            if len(parted) <= room:
                stretches, needed = parted, len(parted)
        self._before = before
        self._advance(stretches, self._free_slots(needed))
        return tuple(_runs(stretches))

    def _check(self, stretches: Sequence[Stretch]) -> None:
        lengths: dict[int, int] = {}
        for stretch in stretches:
            length = lengths.get(stretch.sequence, self._length(stretch.sequence))
            if stretch.first != length:
                raise InvalidOption(
                    f"a batch goes on from position {stretch.first} of sequence {stretch.sequence}, whose "
                    f"state is that after {length} tokens"
                )
            lengths[stretch.sequence] = stretch.end

    def _advance(self, stretches: Sequence[Stretch], free: list[int]) -> None:
        """Puts the states after a batch into free slots: one for each sequence, and those before an end."""
        slots, self._clock = self._slots, self._clock + 1
        slots.read, slots.written = [], []
        for stretch in stretches:
            states = self._states.setdefault(stretch.sequence, [])
            standing = states[-1] if states else None
            slots.read.append(slots.count if standing is None else standing.slot)
            if standing is None or standing.used < self._clock or standing.before_end:
                if stretch.before_end:
                    self._drop_before_end(states, stretch.first - _BEFORE_END)
                standing = State(stretch.end, free.pop(), stretch.before_end, self._clock)
                states.append(standing)
            standing.length = stretch.end
            standing.kept = stretch.before_end or self._is_apart(states)
            slots.written.append(standing.slot)

    @staticmethod
    def _drop_before_end(states: list[State], length: int) -> None:
        """What was kept as the end of a prompt is none, where the prompt goes on behind it."""
        states[:] = [one for one in states if not (one.before_end and one.length == length)]

    @staticmethod
    def _is_apart(states: Sequence[State]) -> bool:
        """Whether the last state is far from the one kept before it; those before ends do not count."""
        last = max((one.length for one in states[:-1] if one.kept and not one.before_end), default=0)
        return states[-1].length - last >= _APART

    def _settle(self, sequence: int) -> None:
        """Lets go of states that a sequence need not go back to when its next batch comes."""
        states = self._states.get(sequence, [])
        if len(states) > 1:
            states[:] = [one for one in states[:-1] if one.kept] + states[-1:]

    def _used(self) -> set[int]:
        return {one.slot for states in self._states.values() for one in states}

    def _pinned(self) -> set[int]:
        """The slots of the states that sequences stand at."""
        return {states[-1].slot for states in self._states.values() if states}

    @property
    def _room(self) -> int:
        """How many slots are free, or can be made so."""
        return self._slots.count - len(self._pinned())

    def _free_slots(self, count: int) -> list[int]:
        """So many free slots; where there are fewer, states are let go of at which no sequence stands."""
        free = set(range(self._slots.count)) - self._used()
        pinned = self._pinned()
        while len(free) < count:
            others = [one for states in self._states.values() for one in states if one.slot not in pinned]
            oldest = min(others, key=lambda one: (one.kept, one.used)).slot
            for states in self._states.values():
                states[:] = [one for one in states if one.slot != oldest]
            free.add(oldest)
        return sorted(free, reverse=True)[-count:]

    def _restore(self, before: dict[int, list[State]]) -> None:
        for sequence, states in before.items():
            self._states[sequence] = states
            self._tidy(sequence)

    def _tidy(self, sequence: int) -> None:
        if not self._states.get(sequence):
            self._states.pop(sequence, None)

    def look_ahead(self, horizons: NDArray[np.int32]) -> None:
        """A state has seen what was before it, whatever tokens see elsewhere."""

    def undo(self) -> None:
        self._restore(self._before)
        self._before = {}

    def trace(self, context: Context, tokens: int, shape: Hashable) -> History:
        if not isinstance(shape, tuple) or not all(isinstance(run, Run) for run in shape):
            raise InvalidOption(f"{shape!r} is not a shape of this cache")
        runs: tuple[Run, ...] = shape or self._largest(tokens)
        if sum(run.sequences * run.tokens for run in runs) != tokens:
            raise InvalidOption(f"a batch of {tokens} tokens has not the shape {shape!r}")
        stretches, inputs = sum(run.sequences for run in runs), context.input()
        read, written = inputs.empty(DType.I32, stretches), inputs.empty(DType.I32, stretches)
        return RecurrentHistory(self._slots, context, runs, read, written)

    def worst_case(self) -> Hashable:
        """No runs: `trace` makes them of its number of tokens."""
        return ()

    def _largest(self, tokens: int) -> tuple[Run, ...]:
        """As many sequences as run together, and what is left over in a run of its own."""
        sequences = min(self._max_sequences, tokens)
        each, over = divmod(tokens, sequences)
        return (Run(sequences, each), Run(1, over)) if over else (Run(sequences, each),)

    def check_remove(self, sequence: int, begin: int, end: int | None) -> None:
        if end is not None and begin < end < self._length(sequence):
            raise ShiftRefused("what this model carries on from token to token cannot be taken back")

    def remove(self, sequence: int, begin: int, end: int | None = None) -> None:
        self.check_remove(sequence, begin, end)
        if end is not None and end <= begin:
            return
        self._cut(sequence, self._states.get(sequence, ()), begin)

    def copy_prefix(self, source: int, target: int, length: int, *, apart: bool = False) -> None:
        self._cut(target, self._states.get(source, ()), length)

    def _cut(self, sequence: int, states: Sequence[State], length: int) -> None:
        """Makes the first `length` tokens of `states` those of a sequence."""
        own = [one for one in states if one.length <= length]
        if own:
            self._clock += 1
            own[-1].used = self._clock
        self._states[sequence] = own
        self._tidy(sequence)

    def _length(self, sequence: int) -> int:
        states = self._states.get(sequence)
        return states[-1].length if states else 0

    def resumable(self, sequence: int, length: int) -> int:
        return max((one.length for one in self._states.get(sequence, ()) if one.length <= length), default=0)

    def can_resume(self, sequence: int, position: int) -> bool:
        return self.resumable(sequence, position) == position

    @property
    def rewinds(self) -> bool:
        return False

    @property
    def taken(self) -> int:
        return len(self._used())

    @property
    def most_sequences(self) -> int:
        return min(self._slots.count, MAX_SEQUENCES)

    def fits(self, growth: Sequence[tuple[int, int]]) -> bool:
        growing = {sequence for sequence, _ in growth}
        others: set[int] = set()
        for sequence in self._states.keys() - growing:
            states = self._states[sequence]
            # Not only the state that it stands at: what is kept is of most use before the end of its prompt.
            others |= {states[-1].slot, *[one.slot for one in states if one.before_end][-1:]}
        return len(others) + _RUNNING * len(growing) <= self._slots.count

    def owners(self) -> set[int]:
        return set(self._states)

    def is_whole(self, sequence: int, length: int) -> bool:
        return self._length(sequence) == length

    def close(self) -> None:
        self._slots.close()


def _stretches(positions: NDArray[np.int64], sequences: NDArray[np.int64]) -> Iterator[Stretch]:
    cuts = (np.flatnonzero(sequences[1:] != sequences[:-1]) + 1).tolist()
    for begin, end in zip([0, *cuts], [*cuts, sequences.size], strict=True):
        yield Stretch(int(sequences[begin]), int(positions[begin]), end - begin)


def _parted(stretches: Sequence[Stretch]) -> Iterator[Stretch]:
    """Each in two where a state is wanted before its end."""
    for stretch in stretches:
        sequence, first, tokens, _ = stretch
        if tokens <= _BEFORE_END:
            yield stretch
            continue
        middle = tokens - _BEFORE_END
        yield Stretch(sequence, first, middle, before_end=True)
        yield Stretch(sequence, first + middle, _BEFORE_END)


def _runs(stretches: Sequence[Stretch]) -> Iterator[Run]:
    """Neighbours of equal length are one run, unless one goes on from another."""
    together: set[int] = set()
    tokens = 0
    for stretch in stretches:
        if together and (stretch.tokens != tokens or stretch.sequence in together):
            yield Run(len(together), tokens)
            together = set()
        together.add(stretch.sequence)
        tokens = stretch.tokens
    yield Run(len(together), tokens)
