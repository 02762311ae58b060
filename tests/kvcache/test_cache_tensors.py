"""Keys and values go where the books say, in every element type, and turn when their tokens move."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.kvcache.drive import MakeBackend, ready, step

from puna.errors import InvalidOption
from puna.kvcache import Causal, Composed, SlidingWindow
from puna.ml import Backend, CacheConfig, DType, RopeParameters, Tensor

HEADS, SIZE = 2, 32

# Rounding to each type, relative to the largest element of a block of 32.
ERRORS = {DType.F32: 0.0, DType.F16: 2**-11, DType.Q8_0: 1 / 254, DType.Q4_0: 1 / 8}

Floats = NDArray[np.float32]


def _random(tokens: int, seed: int, size: int = SIZE) -> Floats:
    return np.random.default_rng(seed).standard_normal((tokens, HEADS, size), np.float32)


def _close(found: Floats, expected: Floats, dtype: DType) -> bool:
    return bool((np.abs(found - expected) <= ERRORS[dtype] * np.abs(expected).max() * 1.01).all())


@pytest.mark.parametrize("dtype", ERRORS)
def test_tokens_find_what_earlier_ones_stored(backend: Backend, dtype: DType) -> None:
    cache = ready(Causal(), backend, dtype=dtype, sequences=2, capacity=16)
    keys, values = _random(7, 0), _random(7, 1)
    step(cache, backend, [0, 1, 2], [0, 0, 0], keys[:3], values[:3])
    step(cache, backend, [0, 1], [1, 1], keys[3:5], values[3:5])
    found_keys, found_values, mask = step(cache, backend, [3, 2], [0, 1], keys[5:], values[5:])
    assert _close(found_keys[:7], keys, dtype)
    assert _close(found_values[:7], values, dtype)
    seen = [np.flatnonzero(row == 0).tolist() for row in mask[:2]]
    assert seen == [[0, 1, 2, 5], [3, 4, 6]]
    cache.close()
    cache.close()


def test_layers_and_members_keep_apart(backend: Backend) -> None:
    cache = ready(Composed([SlidingWindow(4), Causal()], [0, 1, 0]), backend, capacity=16)
    keys, values = _random(3, 0), _random(3, 1)
    shape = cache.start([0], [0])
    with backend.new_context() as context:
        history = cache.trace(context, 1, shape)
        seen = []
        for layer in range(3):
            piece = slice(layer, layer + 1)
            inputs = [context.input().from_floats(x[piece], 1, HEADS, SIZE) for x in (keys, values)]
            key, value, _ = history.layer(layer).update(*inputs)
            seen += [key.contiguous(*key.shape), value.contiguous(*value.shape)]
        context.forward(*seen)
        cache.fill(history)
        context.compute(*seen)
        found = [tensor.floats()[0] for tensor in seen]
    assert all((found[2 * layer] == keys[layer]).all() for layer in range(3))
    assert all((found[2 * layer + 1] == values[layer]).all() for layer in range(3))
    cache.close()


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16])
def test_permuted_values(make_backend: MakeBackend, dtype: DType) -> None:
    """Values lie by element; heads of values are of another size than those of keys."""
    backend = make_backend(CacheConfig(cache_padding=8, permuted_v=True))
    cache = ready(Causal(), backend, dtype=dtype, capacity=16)
    keys, values = _random(5, 0), _random(5, 1, size=6)
    step(cache, backend, [0, 1, 2], [0] * 3, keys[:3], values[:3])
    found_keys, found_values, _ = step(cache, backend, [3, 4], [0] * 2, keys[3:], values[3:])
    assert found_keys.shape == (8, HEADS, SIZE) and found_values.shape == (HEADS, 6, 8)
    assert _close(found_keys[:5], keys, dtype)
    assert _close(found_values.transpose(2, 0, 1)[:5], values, dtype)


def test_leftover_rows_write_where_nobody_reads(backend: Backend) -> None:
    cache = ready(Causal(), backend, capacity=16)
    keys, values = _random(6, 0), _random(6, 1)
    step(cache, backend, [0, 1, 2], [0] * 3, keys[:3], values[:3])
    shape = cache.start([3], [0])
    with backend.new_context() as context:
        history = cache.trace(context, 3, shape)
        inputs = [context.input().from_floats(x[3:], 3, HEADS, SIZE) for x in (keys, values)]
        key, _, _ = history.layer(0).update(*inputs)
        dense = key.contiguous(*key.shape)
        context.forward(dense)
        cache.fill(history)
        context.compute(dense)
        found = dense.floats()
    assert (found[:4] == keys[:4]).all()
    assert (found[4:] == 0).all()
    cache.close()


@pytest.mark.parametrize("dtype", ERRORS)
def test_removal_turns_the_keys_behind(backend: Backend, dtype: DType) -> None:
    """Keys that moved equal keys that were stored at their new positions, in every layer."""
    rope = RopeParameters(SIZE)

    def shift(layer: int, key: Tensor, offsets: Tensor) -> Tensor:
        return key.rope(offsets, rope)

    raw, values = _random(12, 0), _random(12, 1)
    cache = ready(Causal(shift), backend, dtype=dtype, capacity=32, batch=4)
    for begin in range(0, 12, 4):
        chunk = range(begin, begin + 4)
        step(
            cache, backend, chunk, [0] * 4, _rotated(raw[begin : begin + 4], chunk), values[begin : begin + 4]
        )
    cache.remove(0, 2, 5)
    kept = [0, 1, *range(5, 12)]
    expected = _rotated(raw[kept], range(9))
    found, found_values, mask = step(cache, backend, [9], [0], _random(1, 2), _random(1, 3))
    order = np.argsort(cache.cells.positions[:12])
    places = [cell for cell in order if mask[0, cell] == 0][:9]
    moved = {DType.F32: 1e-5, DType.F16: 0.01}.get(dtype, 2.5 * ERRORS[dtype] * float(np.abs(raw).max()))
    assert np.abs(found[places] - expected).max() < moved
    assert _close(found_values[places], values[kept], dtype)
    cache.close()


def _rotated(keys: Floats, positions: Any) -> Floats:
    """Rotary embedding of neighbours, in complex numbers."""
    turns = np.asarray(positions)[:, None] * 10000.0 ** (-np.arange(0, SIZE, 2) / SIZE)
    pairs = keys[..., 0::2] + 1j * keys[..., 1::2]
    turned = pairs * np.exp(1j * turns)[:, None, :]
    return np.stack((turned.real, turned.imag), -1).reshape(keys.shape).astype(np.float32)


def test_types_that_cannot_be(make_backend: MakeBackend) -> None:
    plain, permuted = make_backend(CacheConfig()), make_backend(CacheConfig(permuted_v=True))
    with pytest.raises(InvalidOption, match="type I32 is not possible"):
        ready(Causal(), plain, dtype=DType.I32)
    with pytest.raises(InvalidOption, match="needs flash attention"):
        ready(Causal(), permuted, dtype=DType.Q8_0)
    cache = ready(Causal(), plain, dtype=DType.Q8_0)
    with pytest.raises(InvalidOption, match="whole blocks of 32"):
        step(cache, plain, [0], [0], _random(1, 0, size=16), _random(1, 1, size=16))
