"""Whatever happens to the sequences, every token sees exactly its own sequence's earlier tokens."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.kvcache.drive import ConfiguredBackend, books, masks, ready

from puna.kvcache import CacheFull, Causal, Chunked, ShiftRefused, SlidingWindow
from puna.ml import Backend, CacheConfig, Tensor

SEQUENCES, CAPACITY, BATCH = 4, 12, 6
WINDOW, CHUNK = 5, 4


def _same(layer: int, key: Tensor, offsets: Tensor) -> Tensor:
    return key


CACHES: dict[str, tuple[Callable[[], Causal], Callable[[int], int]]] = {
    "causal": (lambda: Causal(_same), lambda position: 0),
    "window": (lambda: SlidingWindow(WINDOW, _same), lambda position: max(0, position - WINDOW + 1)),
    "memory": (
        lambda: SlidingWindow(WINDOW, _same, memory=8),
        lambda position: max(0, position - WINDOW + 1),
    ),
    "chunked": (lambda: Chunked(CHUNK, _same), lambda position: position // CHUNK * CHUNK),
}

Operation = tuple[Any, ...]

OPERATIONS: st.SearchStrategy[list[Operation]] = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.lists(st.integers(0, SEQUENCES - 1), min_size=1, max_size=BATCH)),
        st.tuples(st.just("cut"), st.integers(0, SEQUENCES - 1), st.integers(0, CAPACITY)),
        st.tuples(
            st.just("take out"),
            st.integers(0, SEQUENCES - 1),
            st.integers(0, CAPACITY),
            st.integers(1, 4),
        ),
        st.tuples(
            st.just("copy"),
            st.integers(0, SEQUENCES - 1),
            st.integers(0, SEQUENCES - 1),
            st.integers(0, CAPACITY),
        ),
    ),
    max_size=25,
)


@dataclass
class Model:
    """Sequences as plain lists: at each position the name of the token that stands there."""

    tokens: dict[int, list[int]] = field(default_factory=lambda: {s: [] for s in range(SEQUENCES)})
    names: int = 0

    def append(self, sequence: int) -> int:
        """One more token; returns its position."""
        self.tokens[sequence].append(self.names)
        self.names += 1
        return len(self.tokens[sequence]) - 1

    def distinct(self) -> int:
        """How many tokens there are, each counted once."""
        return len({name for tokens in self.tokens.values() for name in tokens})


class Run:
    """A cache and a model of it that are told the same."""

    def __init__(self, backend: Backend, kind: str) -> None:
        make, self.lowest = CACHES[kind]
        self.backend = backend
        self.cache = ready(make(), backend, sequences=SEQUENCES, capacity=CAPACITY, batch=BATCH)
        self.model = Model()
        self.limited = kind != "causal"
        self.content = np.full(self.cache.cells.members.size, -1)

    def do(self, operation: Operation) -> None:
        actions: dict[str, Callable[..., None]] = {
            "start": self.start,
            "cut": self.cut,
            "take out": self.take_out,
            "copy": self.copy,
        }
        name, *arguments = operation
        actions[name](*arguments)

    def start(self, sequences: list[int]) -> None:
        for sequence in set(sequences):
            self._resume(sequence)
        before = books(self.cache.cells)
        lengths = {sequence: len(tokens) for sequence, tokens in self.model.tokens.items()}
        if not self.limited and self.model.distinct() + len(sequences) > SEQUENCES * CAPACITY:
            with pytest.raises(CacheFull):
                self._evaluate(sequences)
            assert books(self.cache.cells) == before
            for sequence, length in lengths.items():
                del self.model.tokens[sequence][length:]
            return
        self._evaluate(sequences)

    def _evaluate(self, sequences: list[int]) -> None:
        positions = [self.model.append(sequence) for sequence in sequences]
        shape = self.cache.start(positions, sequences)
        (mask,) = masks(self.cache, self.backend, shape, len(sequences))
        cells = self.cache._ledger.batch.cells
        self.content[cells] = [
            self.model.tokens[sequence][position]
            for sequence, position in zip(sequences, positions, strict=True)
        ]
        for row, sequence, position in zip(mask, sequences, positions, strict=True):
            seen = sorted(self.content[np.flatnonzero(row == 0)].tolist())
            tokens = self.model.tokens[sequence]
            assert seen == sorted(tokens[self.lowest(position) : position + 1])

    def _resume(self, sequence: int) -> None:
        """Begins a sequence anew where the cache has let go of what its next token would see."""
        end = len(self.model.tokens[sequence])
        if not self.cache.can_resume(sequence, end):
            assert self.limited
            self.cache.remove(sequence, 0)
            self.model.tokens[sequence].clear()

    def cut(self, sequence: int, begin: int) -> None:
        self.cache.remove(sequence, begin)
        del self.model.tokens[sequence][begin:]

    def take_out(self, sequence: int, begin: int, count: int) -> None:
        before = books(self.cache.cells)
        behind = self.model.tokens[sequence][begin + count :]
        others = {n for s, tokens in self.model.tokens.items() if s != sequence for n in tokens}
        try:
            self.cache.remove(sequence, begin, begin + count)
        except ShiftRefused:
            assert self.limited or others & set(behind)
            assert books(self.cache.cells) == before
            return
        assert self.limited or not others & set(behind)
        del self.model.tokens[sequence][begin : begin + count]

    def copy(self, source: int, target: int, length: int) -> None:
        if source != target:
            self.cache.copy_prefix(source, target, length)
            self.model.tokens[target] = self.model.tokens[source][:length]

    def check(self) -> None:
        """The books agree with themselves, and a cache without limit with the model."""
        cells = self.cache.cells
        in_use = np.flatnonzero(cells.members)
        assert cells.free == cells.members.size - in_use.size
        assert cells.used == (in_use[-1] + 1 if in_use.size else 0)
        if not self.limited:
            assert in_use.size == self.model.distinct()


@pytest.mark.parametrize("kind", CACHES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS)
def test_tokens_see_their_own_past(empty_model: Path, kind: str, operations: list[Operation]) -> None:
    with ConfiguredBackend(empty_model, CacheConfig(cache_padding=4)) as backend:
        run = Run(backend, kind)
        for operation in operations:
            run.do(operation)
            run.check()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS, last=st.lists(st.integers(0, SEQUENCES - 1), min_size=1, max_size=BATCH))
@pytest.mark.parametrize("kind", CACHES)
def test_undo_takes_a_start_back(
    empty_model: Path, kind: str, operations: list[Operation], last: list[int]
) -> None:
    with ConfiguredBackend(empty_model, CacheConfig(cache_padding=4)) as backend:
        run = Run(backend, kind)
        for operation in operations:
            run.do(operation)
        before = books(run.cache.cells)
        positions = [run.model.append(sequence) for sequence in last]
        try:
            run.cache.start(positions, last)
        except CacheFull:
            assert books(run.cache.cells) == before
            return
        run.cache.undo()
        assert books(run.cache.cells) == before
