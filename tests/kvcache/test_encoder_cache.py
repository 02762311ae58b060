"""The cache of pictures against the plainest bookkeeping: which token sees which, and what it finds there."""

import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.kvcache.drive import PLAIN, MakeBackend, ready

from puna.errors import InvalidOption
from puna.kvcache import CacheFull, EncoderCache
from puna.ml import Backend, CacheConfig

ROWS, TILES, HEADS, SIZE = 3, 2, 2, 8

Floats = NDArray[np.float32]


def cache_of(backend: Backend, sequences: int = 2) -> EncoderCache:
    cache: EncoderCache = ready(EncoderCache(ROWS, TILES, [1], (HEADS, SIZE)), backend, sequences=sequences)
    return cache


def content(key: bytes, tiles: int) -> tuple[Floats, Floats]:
    """The key and value of a picture, by its name."""
    generator = np.random.default_rng([*key])
    shape = (2, tiles * ROWS, HEADS, SIZE)
    key_rows, value_rows = generator.standard_normal(shape).astype(np.float32)
    return key_rows, value_rows


def place(
    cache: EncoderCache, backend: Backend, sequence: int, position: int, key: bytes, tiles: int
) -> None:
    blocks = cache.place(sequence, position, key, tiles)
    if not blocks:
        return
    with backend.new_context() as context:
        keys, values = (context.input().from_floats(x, *x.shape) for x in content(key, tiles))
        cache.write(context, 1, keys, values, blocks)
        context.compute()


def looked(
    cache: EncoderCache, backend: Backend, positions: list[int], sequences: list[int], query: Floats
) -> Floats:
    """What each token finds; zeros for those that see nothing."""
    shape = cache.start(positions, sequences)
    with backend.new_context() as context:
        history = cache.trace(context, len(positions) + 1, shape)
        seen = history.crossed(1)
        if seen is None:
            cache.fill(history)
            return np.zeros((len(positions), HEADS, SIZE), np.float32)
        padded = np.concatenate((query, query[:1]))
        asked = context.input().from_floats(padded, *padded.shape)
        found = asked.scaled_dot_product_attention(seen.key, seen.value, seen.mask, 1.0)
        flat = found.reshape(len(padded), HEADS * SIZE) * seen.seeing
        context.forward(flat)
        cache.fill(history)
        context.compute(flat)
        return flat.floats()[:-1].reshape(query.shape)


def expected(pictures: list[tuple[int, bytes, int]], position: int, query: Floats) -> Floats:
    """The same for one token (heads, size), by the rule in words."""
    latest = [one for one in pictures if one[0] <= position]
    while len(latest) > 1 and any(b[0] != a[0] + 1 for a, b in pairwise(latest)):
        latest = latest[1:]
    if not latest:
        return np.zeros_like(query)
    keys, values = (
        np.concatenate([content(key, tiles)[part] for _, key, tiles in latest]) for part in (0, 1)
    )
    scores = np.einsum("hd,nhd->hn", query, keys)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    result: Floats = np.einsum("hn,nhd->hd", weights / weights.sum(-1, keepdims=True), values)
    return result


@pytest.mark.parametrize("config", [PLAIN, CacheConfig()])
@pytest.mark.parametrize("seed", range(6))
def test_tokens_find_their_latest_pictures(make_backend: MakeBackend, config: CacheConfig, seed: int) -> None:
    backend, generator = make_backend(config), random.Random(seed)
    cache = cache_of(backend, sequences=6)
    pictures: dict[int, list[tuple[int, bytes, int]]] = {0: [], 1: [], 2: []}
    lengths = {0: 0, 1: 0, 2: 0}
    for _ in range(25):
        sequence = generator.randrange(3)
        position = lengths[sequence]
        for offset in range(generator.choice((0, 1, 1, 2))):
            tiles = generator.randint(1, TILES)
            picture = (position + offset, bytes([generator.randrange(4), tiles]), tiles)
            place(cache, backend, sequence, *picture)
            pictures[sequence].append(picture)
        lengths[sequence] += generator.randint(2, 4)
        rows = [
            (s, p)
            for s in (sequence, (sequence + 1) % 3)
            for p in range(lengths[s] - 2, lengths[s])
            if p >= 0
        ]
        query = np.random.default_rng(position).standard_normal((len(rows), HEADS, SIZE)).astype(np.float32)
        found = looked(cache, backend, [p for _, p in rows], [s for s, _ in rows], query)
        for row, (number, at) in enumerate(rows):
            wanted = expected(pictures[number], at, query[row])
            assert np.abs(found[row] - wanted).max() < 1e-5
        if generator.random() < 0.3:
            other = (sequence + 2) % 3
            cache.copy_prefix(sequence, other, lengths[sequence])
            pictures[other], lengths[other] = list(pictures[sequence]), lengths[sequence]
    for sequence in range(3):
        cache.remove(sequence, 0)
    assert cache.taken == 0 and cache.owners() == set()


def test_both_backends_find_the_same(backend: Backend) -> None:
    cache = cache_of(backend)
    query = np.random.default_rng(1).standard_normal((2, HEADS, SIZE)).astype(np.float32)
    place(cache, backend, 0, 1, b"a", 2)
    place(cache, backend, 0, 2, b"b", 1)
    found = looked(cache, backend, [0, 5], [0, 0], query)
    pictures = [(1, b"a", 2), (2, b"b", 1)]
    assert (found[0] == 0).all() and np.abs(found[1] - expected(pictures, 5, query[1])).max() < 1e-3


def test_values_by_element_where_the_backend_wants_them(make_backend: MakeBackend) -> None:
    backend = make_backend(CacheConfig(cache_padding=4, permuted_v=True))
    cache = cache_of(backend)
    place(cache, backend, 0, 0, b"a", 2)
    with backend.new_context() as context:
        seen = cache.trace(context, 1, cache.start([0], [0])).crossed(1)
        assert seen is not None
        assert (seen.key.shape, seen.value.shape) == ((8, HEADS, SIZE), (HEADS, SIZE, 8))


def test_equal_pictures_share_their_blocks(make_backend: MakeBackend) -> None:
    cache = cache_of(make_backend(PLAIN))
    assert cache.place(0, 0, b"a", 2) == (0, 1)
    assert cache.place(1, 3, b"a", 2) == () and cache.taken == 2
    assert cache.place(1, 4, b"b", 1) == (2,)
    cache.remove(0, 0)
    assert cache.taken == 3
    cache.remove(1, 4)
    assert cache.taken == 2 and cache.pictures(1)[0].blocks == (0, 1)
    assert cache.owners() == {1} and cache.is_whole(1, 4) and not cache.is_whole(1, 3)


def test_there_is_room_for_so_many(make_backend: MakeBackend) -> None:
    cache = cache_of(make_backend(PLAIN))
    cache.place(0, 0, b"a", 2)
    cache.place(1, 0, b"b", 1)
    with pytest.raises(CacheFull, match="a picture of 2 tiles does not fit: 1 of 4 are free"):
        cache.place(2, 0, b"c", 2)
    assert cache.owners() == {0, 1}
    cache.remove(1, 0)
    cache.place(0, 1, b"c", 2)
    with pytest.raises(InvalidOption, match="pictures of 5 tiles stand together; there is room for 4"):
        cache.place(0, 2, b"d", 1)
    # Apart they are never needed together.
    assert cache.place(0, 9, b"d", 1) == (0,)


def test_where_a_sequence_can_go_on(make_backend: MakeBackend) -> None:
    cache = cache_of(make_backend(PLAIN))
    assert cache.can_resume(0, 0) and cache.can_resume(0, 7)
    cache.place(0, 3, b"a", 1)
    assert cache.can_resume(0, 2) and cache.can_resume(0, 3) and cache.can_resume(0, 9)
    cache.place(0, 8, b"b", 1)
    assert [cache.can_resume(0, position) for position in (0, 3, 8, 9)] == [True, False, False, True]
    cache.copy_prefix(0, 1, 9)
    assert not cache.can_resume(1, 8) and cache.can_resume(1, 9)
    cache.remove(0, 0)
    assert cache.can_resume(0, 3) and cache.pictures(1)[0].key == b"b"


def test_what_is_taken_out_moves_the_rest(make_backend: MakeBackend) -> None:
    cache = cache_of(make_backend(PLAIN))
    cache.place(0, 3, b"a", 1)
    cache.place(0, 4, b"b", 1)
    cache.remove(0, 3, 4)
    assert [(one.position, one.key) for one in cache.pictures(0)] == [(3, b"b")]
    cache.remove(0, 2, 2)
    assert cache.taken == 1


def test_layers_that_look_across_have_no_history(make_backend: MakeBackend) -> None:
    cache: Any = cache_of(make_backend(PLAIN))
    cache.place(0, 0, b"a", 1)
    with make_backend(PLAIN).new_context() as context:
        for shape in (None, cache.start([0], [0])):
            with pytest.raises(InvalidOption, match="looks across"):
                cache.trace(context, 1, shape).layer(1)
        with pytest.raises(InvalidOption, match="not a shape"):
            cache.trace(context, 1, "odd")
