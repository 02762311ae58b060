"""States without a model: every token finds what its own sequence's earlier tokens have left."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.kvcache.drive import PLAIN, ConfiguredBackend, ready

from puna.errors import InvalidOption
from puna.kvcache import Cache, CacheFull, Causal, Composed, Recurrent, ShiftRefused, recurrent
from puna.ml import Backend, Tensor

# Of a state so large that few are kept.
LARGE = 1 << 30


def advance(state: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Adds up what comes: a state is (sequences, 2), the total in both its halves."""
    totals, total = [], state
    for index in range(values.dim(1)):
        total = total + values.slice(1, index, index + 1).contiguous(values.dim(0), 2)
        totals.append(total.reshape(values.dim(0), 1, 2))
    return totals[0].stack(1, *totals[1:]), total


def totals(
    cache: Cache,
    backend: Backend,
    positions: Sequence[int],
    sequences: Sequence[int],
    values: Sequence[float],
) -> list[float]:
    """One batch through one layer."""
    shape = cache.start(positions, sequences)
    with backend.new_context() as context:
        history = cache.trace(context, len(positions), shape)
        given = np.repeat(np.asarray(values, np.float32), 2)
        inputs = context.input().from_floats(given, len(positions), 2)
        result = history.layer(0).carry("sum", (2,), (inputs,), advance)
        context.forward(result)
        cache.fill(history)
        context.compute(result)
        found = result.floats()
    assert (found[:, 0] == found[:, 1]).all()
    return [float(value) for value in found[:, 0]]


def extend(cache: Cache, backend: Backend, sequence: int, first: int, count: int) -> list[float]:
    return totals(cache, backend, range(first, first + count), [sequence] * count, [1.0] * count)


def test_sequences_of_any_lengths_share_a_batch(backend: Backend) -> None:
    cache = ready(Recurrent(2), backend, sequences=4, batch=32)
    sequences = [0] * 7 + [1] + [2] + [3] * 9
    positions = [*range(7), 0, 0, *range(9)]
    assert totals(cache, backend, positions, sequences, [1.0] * 18) == [*range(1, 8), 1, 1, *range(1, 10)]
    mixed = [0, 1, 0, 2, 1, 0]
    assert totals(cache, backend, [7, 1, 8, 1, 2, 9], mixed, [1.0] * 6) == [8, 2, 9, 2, 3, 10]
    assert cache.owners() == {0, 1, 2, 3} and cache.is_whole(0, 10) and not cache.is_whole(0, 9)


def test_a_graph_serves_other_sequences_of_the_same_shape(backend: Backend) -> None:
    cache = ready(Recurrent(2), backend, sequences=4)
    for sequence in range(4):
        extend(cache, backend, sequence, 0, sequence + 1)
    shapes = [cache.start([1 + sequence], [sequence]) for sequence in (0, 3)]
    assert shapes[0] == shapes[1]
    assert cache.start([2, 2], [0, 1]) == cache.start([3, 5], [2, 3]) != shapes[0]


def test_states_before_the_end_of_prompts_are_kept(backend: Backend) -> None:
    cache = ready(Recurrent(2), backend, batch=16)
    extend(cache, backend, 0, 0, 16)
    # The prompt went on, so that its end is another.
    extend(cache, backend, 0, 16, 9)
    for position in range(25, 30):
        extend(cache, backend, 0, position, 1)
    assert [at for at in range(31) if cache.can_resume(0, at)] == [0, 21, 29, 30]
    assert [cache.resumable(0, at) for at in (30, 28, 20)] == [30, 21, 0]
    cache.copy_prefix(0, 1, 21)
    cache.remove(0, 29)
    assert extend(cache, backend, 0, 29, 1) == [30] and extend(cache, backend, 1, 21, 2) == [22, 23]


def test_one_state_in_so_many_tokens_is_kept(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "_APART", 10)
    cache = ready(Recurrent(2), backend)
    for position in range(35):
        extend(cache, backend, 0, position, 1)
    assert [at for at in range(36) if cache.can_resume(0, at)] == [0, 10, 20, 30, 34, 35]


def test_a_batch_that_fails_changes_nothing(backend: Backend) -> None:
    cache = ready(Recurrent(2), backend, batch=16)
    extend(cache, backend, 0, 0, 10)
    totals(cache, backend, [10, *range(8)], [0, *[1] * 8], [100.0] * 9)
    # As after a computation that was stopped.
    cache.remove(0, 10)
    cache.remove(1, 0)
    assert cache.is_whole(0, 10) and cache.owners() == {0}
    assert extend(cache, backend, 0, 10, 2) == [11, 12]
    cache.start([12], [0])
    cache.undo()
    assert extend(cache, backend, 0, 12, 1) == [13]


def test_the_oldest_states_give_way_and_none_at_which_a_sequence_stands(backend: Backend) -> None:
    cache = ready(Recurrent(LARGE), backend, sequences=1, batch=16)
    slots = cache.most_sequences
    assert slots == 7
    for sequence in range(4):
        extend(cache, backend, sequence, 0, 8)
    assert cache.taken == slots
    assert [cache.resumable(sequence, 7) for sequence in range(4)] == [0, 4, 4, 4]
    # Two are kept of each of three that stand by, and three are wanted.
    assert not cache.fits([(0, 8)])
    for sequence in (4, 5, 6):
        extend(cache, backend, sequence, 0, 8)
    assert all(cache.is_whole(sequence, 8) for sequence in range(7))
    with pytest.raises(CacheFull, match="1 more states do not fit: 0 of 7 are free"):
        cache.start([0], [7])
    assert all(cache.is_whole(sequence, 8) for sequence in range(7)) and 7 not in cache.owners()
    for sequence in range(3):
        cache.remove(sequence, 0)
    assert cache.fits([(7, 8)]) and not cache.fits([(7, 8), (8, 8)])
    assert extend(cache, backend, 3, 8, 3) == [9, 10, 11]


def test_what_several_sequences_stand_at_is_stored_once(backend: Backend) -> None:
    cache = ready(Recurrent(2), backend, sequences=2, batch=16)
    extend(cache, backend, 0, 0, 3)
    cache.copy_prefix(0, 1, 3)
    cache.copy_prefix(0, 2, 3, apart=True)
    assert cache.taken == 1
    assert totals(cache, backend, [3, 3], [1, 2], [5.0, 7.0]) == [8, 10]
    assert extend(cache, backend, 0, 3, 1) == [4]


def test_what_cannot_be(backend: Backend) -> None:
    cache = ready(Recurrent(2), backend, batch=16)
    extend(cache, backend, 0, 0, 9)
    with pytest.raises(ShiftRefused, match="cannot be taken back"):
        cache.remove(0, 2, 5)
    with pytest.raises(InvalidOption, match="from position 7 of sequence 0, whose state is that after 9"):
        cache.start([7], [0])
    cache.remove(0, 5, 5)
    assert cache.is_whole(0, 9)
    cache.remove(0, 5, 9)
    assert cache.is_whole(0, 5)
    with pytest.raises(InvalidOption, match="sequences"):
        Recurrent(2).init(backend, PLAIN.mask_dtype, 65, 8, 8)
    with backend.new_context() as context:
        shape = cache.start([5], [0])
        for tokens, wrong in ((1, "x"), (2, shape)):
            with pytest.raises(InvalidOption, match="shape"):
                cache.trace(context, tokens, wrong)
        layer = cache.trace(context, 1, shape).layer(0)
        vector = context.input().from_floats([1.0], 1, 1, 1)
        with pytest.raises(InvalidOption, match="no keys and values"):
            layer.update(vector, vector)
        causal = ready(Causal(), backend)
        with pytest.raises(InvalidOption, match="no states"):
            causal.trace(context, 1, causal.start([0], [0])).layer(0).carry("sum", (2,), (vector,), advance)


def test_with_a_cache_of_keys_beside_it(backend: Backend) -> None:
    causal, states = Causal(), Recurrent(2)
    cache = ready(Composed((causal, states), (0, 1)), backend, sequences=1, capacity=32, batch=16)
    cache.start(range(12), [0] * 12)
    assert cache.resumable(0, 11) == 8 and cache.resumable(0, 12) == 12 and cache.resumable(0, 7) == 0
    assert cache.most_sequences == 64 and not cache.rewinds
    with pytest.raises(ShiftRefused):
        cache.remove(0, 3, 6)
    assert cache.is_whole(0, 12)
    # Where there is no room for keys there is none for states.
    count = causal.cells.members.size
    with pytest.raises(CacheFull):
        cache.start(range(count), [1] * count)
    assert states.owners() == {0} and states.taken == 2


@dataclass
class Told:
    """What happens to sequences, told to a cache and to lists of numbers."""

    backend: Backend
    cache: Recurrent
    random: np.random.Generator
    texts: dict[int, list[float]] = field(default_factory=dict)
    full: int = 0

    def act(self) -> None:
        kind, sequence = self.random.random(), int(self.random.integers(8))
        if kind < 0.6:
            self.extend()
        elif kind < 0.75:
            self.go_back(sequence)
        elif kind < 0.9:
            self.copy(sequence, int(self.random.integers(8)))
        else:
            self.cache.remove(sequence, 0)
            self.texts.pop(sequence, None)
        assert self.cache.owners() == self.texts.keys()
        assert all(self.cache.is_whole(one, len(text)) for one, text in self.texts.items())

    def extend(self) -> None:
        rows: list[tuple[int, float]] = []
        for _ in range(self.random.integers(1, 6)):
            count = int(self.random.choice([1, 1, 2, 7]))
            whose = int(self.random.integers(8))
            rows += [(whose, float(value)) for value in self.random.integers(-9, 9, count)]
        texts = {whose: list(self.texts.get(whose, [])) for whose, _ in rows}
        positions, expected = [], []
        for whose, value in rows:
            positions.append(len(texts[whose]))
            texts[whose].append(value)
            expected.append(sum(texts[whose]))
        try:
            found = totals(self.cache, self.backend, positions, *zip(*rows, strict=True))
        except CacheFull:
            self.full += 1
            return
        assert found == expected
        self.texts |= texts

    def go_back(self, sequence: int) -> None:
        text = self.texts.get(sequence, [])
        length = self.cache.resumable(sequence, int(self.random.integers(len(text) + 1)))
        assert length == 0 or self.cache.can_resume(sequence, length)
        self.cache.remove(sequence, length)
        self._now(sequence, text[:length])

    def copy(self, source: int, target: int) -> None:
        text = self.texts.get(source, [])
        length = self.cache.resumable(source, int(self.random.integers(len(text) + 1)))
        if source != target:
            self.cache.copy_prefix(source, target, length)
            self._now(target, text[:length])

    def _now(self, sequence: int, text: list[float]) -> None:
        self.texts[sequence] = text
        if not text:
            del self.texts[sequence]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), apart=st.sampled_from([6, 1000]), kept=st.sampled_from([2, 20]))
def test_whatever_happens_no_state_is_another(
    empty_model: Path, monkeypatch: pytest.MonkeyPatch, seed: int, apart: int, kept: int
) -> None:
    monkeypatch.setattr(recurrent, "_APART", apart)
    monkeypatch.setattr(recurrent, "_KEPT_LEAST", kept)
    monkeypatch.setattr(recurrent, "_KEPT_MOST", kept)
    with ConfiguredBackend(empty_model, PLAIN) as backend:
        cache: Any = ready(Recurrent(2), backend, sequences=2, capacity=1000, batch=64)
        told = Told(backend, cache, np.random.default_rng(seed))
        for _ in range(40):
            told.act()
        for sequence in list(told.texts):
            cache.remove(sequence, 0)
        assert not cache.taken
