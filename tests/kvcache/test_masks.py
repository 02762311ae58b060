"""What tokens see, on small examples that can be followed by hand."""

from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from tests.kvcache.drive import PLAIN, MakeBackend, books, masks, ready, visible

from puna.errors import InvalidOption
from puna.kvcache import CacheFull, Causal, Chunked, Composed, ShiftRefused, SlidingWindow
from puna.kvcache.cells import BITS, Batch, Cells, Span
from puna.ml import CacheConfig, DType, Tensor

INF = float("inf")


def _same(layer: int, key: Tensor, offsets: Tensor) -> Tensor:
    return key


def test_two_sequences_copy_and_removal_step_by_step(make_backend: MakeBackend) -> None:
    """The reference's example C.1, with cells anchored at 0."""
    backend = make_backend(PLAIN)
    cache = ready(Causal(_same), backend)
    shape = cache.start([0, 1, 2], [0, 0, 0])
    assert cache.cells.members[:4].tolist() == [1, 1, 1, 0]
    (mask,) = masks(cache, backend, shape, 3)
    assert mask.tolist() == [[0, -INF, -INF, -INF], [0, 0, -INF, -INF], [0, 0, 0, -INF]]

    shape = cache.start([0, 1], [1, 1])
    (mask,) = masks(cache, backend, shape, 2)
    hidden = [-INF] * 3
    assert mask.tolist() == [[*hidden, 0, *hidden, -INF], [*hidden, 0, 0, *hidden]]

    cache.copy_prefix(0, 2, 2)
    assert cache.cells.members[:5].tolist() == [0b101, 0b101, 1, 0b10, 0b10]

    cache.remove(0, 1, 2)
    assert cache.cells.members[:5].tolist() == [0b101, 0b100, 1, 0b10, 0b10]
    assert cache.cells.positions[2] == 1

    shape = cache.start([2], [0])
    (mask,) = masks(cache, backend, shape, 1)
    assert np.flatnonzero(mask[0] == 0).tolist() == [0, 2, 5]


def test_a_sequence_that_goes_on_apart_has_its_cells_together(make_backend: MakeBackend) -> None:
    backend = make_backend(PLAIN)
    cache = ready(Causal(_same), backend, sequences=4)
    cache.start([0, 1, 2], [0, 0, 0])
    cache.start([0, 1], [1, 1])
    cache.copy_prefix(0, 2, 2, apart=True)
    assert cache.cells.members[:8].tolist() == [1, 1, 1, 0b10, 0b10, 0b100, 0b100, 0]
    assert cache.is_whole(2, 2) and cache.is_whole(0, 3)
    shape = cache.start([2], [2])
    assert shape == (0, 8)
    (mask,) = masks(cache, backend, shape, 1)
    assert np.flatnonzero(mask[0] == 0).tolist() == [5, 6, 7]
    # Now that nobody shares them, tokens of the first can move.
    cache.remove(0, 0, 1)
    assert cache.is_whole(0, 2)


def test_beginnings_are_shared_where_copies_would_take_too_much(make_backend: MakeBackend) -> None:
    cache = ready(Causal(_same), make_backend(PLAIN))
    cache.start([0, 1, 2], [0, 0, 0])
    cache.copy_prefix(0, 1, 3, apart=True)
    assert cache.taken == 3 and cache.cells.members[:3].tolist() == [0b11] * 3


def test_a_new_sequence_begins_where_most_room_is(make_backend: MakeBackend) -> None:
    cache = ready(Causal(_same), make_backend(PLAIN), sequences=3, capacity=200, batch=200)
    cache.start(range(200), [0] * 200)
    cache.start(range(100), [1] * 100)
    cache.remove(0, 0)
    assert cache.start([0, 1], [2, 2]) == (256, 48)
    assert np.flatnonzero(cache.cells.of(2)).tolist() == [300, 301]


def test_shared_tokens_do_not_move(make_backend: MakeBackend) -> None:
    """In C.1, had the last token belonged to the copy as well."""
    cache = ready(Causal(_same), make_backend(PLAIN))
    cache.start([0, 1, 2], [0, 0, 0])
    cache.copy_prefix(0, 2, 3)
    before = books(cache.cells)
    with pytest.raises(ShiftRefused, match="position 2 are shared"):
        cache.remove(0, 1, 2)
    assert books(cache.cells) == before


def test_sliding_window_hides_what_is_a_window_back(make_backend: MakeBackend) -> None:
    """The reference's example C.2: window 4, batches of 2."""
    backend = make_backend(PLAIN)
    cache = ready(SlidingWindow(4), backend, capacity=100, batch=2)
    for position in (0, 2, 4):
        visible(cache, backend, [position, position + 1], [0, 0])
    assert visible(cache, backend, [6, 7], [0, 0]) == [[3, 4, 5, 6], [4, 5, 6, 7]]
    assert sorted(cache.cells.held(0).tolist()) == [3, 4, 5, 6, 7]


def test_sliding_window_reuses_its_cells(make_backend: MakeBackend) -> None:
    backend = make_backend(CacheConfig())
    cache = ready(SlidingWindow(4), backend, capacity=100, batch=3)
    for position in range(50):
        seen = visible(cache, backend, [position], [0])
        assert seen == [list(range(max(0, position - 3), position + 1))]
    assert cache.cells.used == 4
    assert cache.cells.members.size == 7


def test_sliding_window_with_memory_can_go_back(make_backend: MakeBackend) -> None:
    backend = make_backend(PLAIN)
    short, long = SlidingWindow(4), SlidingWindow(4, memory=8)
    for cache in (short, long):
        ready(cache, backend, capacity=100, batch=1)
        for position in range(20):
            cache.start([position], [0])
    # Kept are the 4, or 8, tokens up to 19; a token at 18 sees 15 to 18.
    assert [short.can_resume(0, position) for position in (18, 19, 20, 21)] == [False, True, True, False]
    assert [long.can_resume(0, position) for position in (14, 15, 20)] == [False, True, True]
    assert long.can_resume(0, 0) and short.can_resume(0, 0)
    long.remove(0, 15)
    assert visible(long, backend, [15], [0]) == [[12, 13, 14, 15]]


def test_chunks_begin_anew(make_backend: MakeBackend) -> None:
    backend = make_backend(PLAIN)
    cache = ready(Chunked(4), backend, capacity=100, batch=6)
    assert visible(cache, backend, range(6), [0] * 6) == [
        [0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [4], [4, 5],
    ]  # fmt: skip
    assert visible(cache, backend, [6, 7, 8], [0] * 3) == [[4, 5, 6], [4, 5, 6, 7], [8]]


def test_a_full_cache_changes_nothing(make_backend: MakeBackend) -> None:
    cache = ready(Causal(), make_backend(PLAIN))
    cache.start(range(6), [0] * 6)
    before = books(cache.cells)
    with pytest.raises(CacheFull, match="3 tokens does not fit: 2 cells"):
        cache.start([6, 7, 8], [0] * 3)
    assert books(cache.cells) == before
    cache.start([6, 7], [0, 0])


def test_a_full_window_changes_nothing(make_backend: MakeBackend) -> None:
    cache = ready(SlidingWindow(4), make_backend(CacheConfig()), capacity=100, batch=2)
    cache.start([0, 1], [0, 0])
    cache.start([2, 3], [0, 0])
    before = books(cache.cells)
    with pytest.raises(CacheFull):
        cache.start([4, 5, 6, 7, 8, 9], [0] * 6)
    assert books(cache.cells) == before


def test_idle_windows_make_room(make_backend: MakeBackend) -> None:
    """A sequence that takes no part holds what its last batch left until others need the cells."""
    backend = make_backend(CacheConfig())
    cache = ready(SlidingWindow(2), backend, sequences=2, capacity=100, batch=6)
    cache.start(range(6), [0] * 6)
    cache.start(range(6), [1] * 6)
    assert cache.cells.held(0).tolist() == [5]
    assert visible(cache, backend, [6, 6], [0, 1]) == [[5, 6], [5, 6]]


@pytest.mark.parametrize("make", [lambda: SlidingWindow(4), lambda: Chunked(4)])
def test_windows_have_room_for_as_many_sequences_as_they_were_made_for(
    make_backend: MakeBackend, make: Callable[[], Causal]
) -> None:
    cache = ready(make(), make_backend(CacheConfig()), sequences=2, capacity=100, batch=3)
    length = [0, 0]
    for step in range(40):
        assert cache.fits([(0, 1), (1, 1)])
        assert cache.fits([(0, 50), (1, 50)])
        assert not cache.fits([(0, 50), (1, 50), (2, 50)])
        # Long batches of one, then tokens of both, as a prompt beside an answer.
        batch = [step % 2] * 3 if step < 20 else [0, 1]
        positions = []
        for sequence in batch:
            positions.append(length[sequence])
            length[sequence] += 1
        cache.start(positions, batch)


def test_composed_caches_start_together_or_not_at_all(make_backend: MakeBackend) -> None:
    window, full = SlidingWindow(2), Causal()
    cache = ready(Composed([window, full], [0, 1]), make_backend(CacheConfig()), capacity=6, batch=6)
    assert cache.start([0, 1, 2], [0] * 3) == ((0, 3), (0, 3))
    assert cache.start([3], [0]) == ((0, 3), (0, 4))
    before = books(window.cells), books(full.cells)
    with pytest.raises(CacheFull):
        cache.start([4, 5, 6], [0] * 3)
    assert (books(window.cells), books(full.cells)) == before
    assert cache.start([4, 5], [0] * 2) == ((0, 3), (0, 6))


def test_composed_caches_remove_together_or_not_at_all(make_backend: MakeBackend) -> None:
    """The window has let go of what would slide back into view."""
    window, full = SlidingWindow(3, _same), Causal(_same)
    cache = ready(Composed([full, window], [0, 1]), make_backend(CacheConfig()), capacity=16, batch=1)
    for position in range(10):
        cache.start([position], [0])
    before = books(window.cells), books(full.cells)
    with pytest.raises(ShiftRefused, match="are gone"):
        cache.remove(0, 5, 9)
    assert (books(window.cells), books(full.cells)) == before
    assert not cache.can_resume(0, 8)
    assert full.can_resume(0, 8)
    cache.remove(0, 0)
    assert full.cells.used == window.cells.used == 0


def test_resuming_needs_every_visible_token(make_backend: MakeBackend) -> None:
    cache = ready(Causal(_same), make_backend(PLAIN))
    cache.start(range(5), [0] * 5)
    assert [cache.can_resume(0, position) for position in (0, 3, 5, 6)] == [True, True, True, False]
    assert not cache.can_resume(1, 1)
    cache.remove(0, 2)
    assert [cache.can_resume(0, position) for position in (2, 3)] == [True, False]


def test_positions_that_cannot_move_are_cut_off_only(make_backend: MakeBackend) -> None:
    cache = ready(Causal(), make_backend(PLAIN))
    cache.start(range(5), [0] * 5)
    with pytest.raises(ShiftRefused, match="cannot move"):
        cache.remove(0, 1, 2)
    cache.remove(0, 3, 5)
    cache.remove(0, 1)
    assert cache.cells.held(0).tolist() == [0]
    cache.remove(0, 1, 1)
    assert cache.cells.held(0).tolist() == [0]


@pytest.mark.parametrize("dtype", [DType.F16, DType.F32])
def test_rows_beyond_the_batch(make_backend: MakeBackend, dtype: DType) -> None:
    """Padding rows see nothing; rows that a small batch leaves over see what its last token sees."""
    backend = make_backend(CacheConfig(4, mask_dtype=dtype, mask_batch_padding=4))
    cache = ready(Causal(), backend)
    shape = cache.start([0, 1], [0, 0])
    with backend.new_context() as context:
        history = cache.trace(context, 3, shape)
        cache.fill(history)
        assert history.mask.dtype is dtype
        assert history.mask.array().tolist() == [
            [0, -INF, -INF, -INF],
            [0, 0, -INF, -INF],
            [0, 0, -INF, -INF],
            [-INF] * 4,
        ]
        assert history.cells.array().tolist() == [0, 1, cache.cells.members.size]


def test_a_graph_serves_many_batches(make_backend: MakeBackend) -> None:
    """The inputs of one graph are rewritten in full, whatever they held before."""
    backend = make_backend(CacheConfig(8))
    cache = ready(Causal(), backend)
    with backend.new_context() as context:
        history = cache.trace(context, 1, Span(0, 8))
        for position, sequence in ((0, 0), (0, 1), (1, 1), (1, 0), (2, 0)):
            assert cache.start([position], [sequence]) == (0, 8)
            cache.fill(history)
            (fresh,) = masks(cache, backend, Span(0, 8), 1)
            assert (history.mask.array() == fresh).all()


@pytest.mark.parametrize(
    "make", [Causal, lambda: SlidingWindow(4), lambda: SlidingWindow(3, memory=5), lambda: Chunked(4)]
)
def test_a_token_that_follows_sees_what_it_would_in_a_graph_of_its_own(
    make_backend: MakeBackend, make: Callable[[], Causal]
) -> None:
    """One graph for single tokens, whatever else happens to the cache between them."""
    backend, random = make_backend(CacheConfig(16)), Random(5)
    cache = ready(make(), backend, sequences=2, capacity=16, batch=8)
    with backend.new_context() as context:
        history = cache.trace(context, 1, Span(0, 16))
        length = [0, 0, 0]
        for _ in range(300):
            sequence, event = random.randrange(2), random.randrange(12)
            if event == 0 or length[sequence] >= 7:
                half = length[sequence] // 2
                length[sequence] = half if cache.can_resume(sequence, half) else 0
                cache.remove(sequence, length[sequence])
            elif event == 1 and length[sequence]:
                cache.copy_prefix(sequence, 2, length[sequence], apart=random.random() < 0.5)
                cache.remove(2, 0)
            elif event == 2 and length[sequence] < 5:
                cache.start([length[sequence], length[sequence] + 1], [sequence, sequence])
                length[sequence] += 2
            else:
                for _ in range(random.randrange(1, 4)):
                    shape = cache.start([length[sequence]], [sequence])
                    length[sequence] += 1
                    if shape != Span(0, 16):
                        continue
                    cache.fill(history)
                    (fresh,) = masks(cache, backend, shape, 1)
                    assert (history.mask.array() == fresh).all()
                    assert history.cells.array()[0] == cache.cells.between(
                        sequence, length[sequence] - 1, None
                    )


def test_a_batch_looks_at_the_cells_of_its_own_sequences(make_backend: MakeBackend) -> None:
    backend = make_backend(PLAIN)
    cache = ready(Causal(_same), backend, sequences=3, capacity=600, batch=600)
    cache.start(range(600), [0] * 600)
    shape = cache.start(range(10), [1] * 10)
    assert shape == (512, 100)
    (mask,) = masks(cache, backend, shape, 10)
    assert [np.flatnonzero(row == 0).tolist() for row in mask] == [
        [600 - 512 + cell for cell in range(position + 1)] for position in range(10)
    ]
    # Cells that became free before a sequence's own are left to others.
    cache.remove(0, 3)
    assert cache.start([10], [1]) == (512, 100)
    assert cache.cells.members[610] == 2
    assert cache.start([3], [0]) == (0, 4)
    # Who has cells on both sides looks at all between.
    assert cache.start([11, 4], [1, 0]) == (0, 612)


@pytest.mark.parametrize("begin", [0, 5])
def test_a_sequence_takes_cells_before_its_own_when_none_are_left_behind(begin: int) -> None:
    cells = Cells(8)
    everything = np.arange(8)
    cells.take(Batch(everything, everything.astype(np.int32), BITS[[0] * 4 + [1] * 4]))
    cells.drop(0, everything[1:3])
    assert cells.free_from(begin, 2).tolist() == [1, 2]
    assert cells.span(BITS[1]) == (4, 8)
    assert cells.span(BITS[0] | BITS[1]) == (0, 8)
    assert cells.span(BITS[2]) == (0, 0)


def test_the_worst_case_is_all_cells(make_backend: MakeBackend) -> None:
    backend = make_backend(CacheConfig(4))
    members = [SlidingWindow(5), Chunked(6), Causal()]
    cache = ready(Composed(members, [0, 1, 2]), backend, sequences=2, capacity=21, batch=3)
    assert cache.worst_case() == ((0, 16), (0, 16), (0, 44))


@pytest.mark.parametrize(("sequences", "capacity", "batch"), [(0, 8, 8), (65, 8, 8), (1, 0, 8), (1, 8, 0)])
def test_room_that_makes_no_sense(
    make_backend: MakeBackend, sequences: int, capacity: int, batch: int
) -> None:
    with pytest.raises(InvalidOption, match="is not possible"):
        Causal().init(make_backend(PLAIN), DType.F32, sequences, capacity, batch)


def test_windows_and_chunks_that_make_no_sense() -> None:
    for make in (lambda: SlidingWindow(0), lambda: SlidingWindow(4, memory=3), lambda: Chunked(0)):
        with pytest.raises(InvalidOption, match="is not possible"):
            make()


def test_shapes_of_other_caches(make_backend: MakeBackend) -> None:
    backend = make_backend(PLAIN)
    causal = ready(Causal(), backend)
    composed = ready(Composed([SlidingWindow(2), Causal()], [0, 1]), backend)
    with backend.new_context() as context:
        for cache, shape in ((causal, (4, 4)), (composed, 4), (composed, (4,))):
            with pytest.raises(InvalidOption, match="not a shape of this cache"):
                cache.trace(context, 1, shape)
