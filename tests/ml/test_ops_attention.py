"""Attention, fused and unfused, against float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.ml import DType, Tensor
from puna.ml.array import Array

if TYPE_CHECKING:
    from tests.ml.conftest import Lab

SIZE = 32


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def causal(tokens: int, cells: int) -> Array:
    """The last `tokens` of `cells` tokens see themselves and what came before."""
    seen = np.arange(cells) <= np.arange(cells - tokens, cells)[:, None]
    return np.where(seen, 0, -np.inf).astype(np.float16)


def attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    scale: float,
    sinks: Array | None = None,
    softcap: float = 0.0,
) -> Array:
    """Head by head, as the papers write it."""
    tokens, heads, _ = query.shape
    shared = heads // key.shape[1]
    result = np.empty((tokens, heads, value.shape[2]))
    for head in range(heads):
        scores = query[:, head].astype(np.float64) @ key[:, head // shared].astype(np.float64).T * scale
        if softcap:
            scores = softcap * np.tanh(scores / softcap)
        if mask is not None:
            scores = scores + mask
        if sinks is not None:
            scores = np.concatenate([scores, np.full((tokens, 1), sinks[head])], axis=1)
        weights = torch.softmax(torch.from_numpy(scores), -1).numpy()[:, : len(key)]
        result[:, head] = weights @ value[:, head // shared].astype(np.float64)
    return result


def run(lab: Lab, build: Callable[..., Tensor], mask: Array | None, *arrays: Array) -> Array:
    """`build` gets the query, key, value, mask (in the backend's element type) and the rest."""
    if mask is None:
        return lab.run(lambda q, k, v, *rest: build(q, k, v, None, *rest), *arrays)
    half = lab.backend.cache_config().mask_dtype is DType.F16
    given_mask = mask.astype(np.float16 if half else np.float32)
    return lab.run(lambda q, k, v, m, *rest: build(q, k, v, m, *rest), *arrays[:3], given_mask, *arrays[3:])


@pytest.mark.parametrize("masked", [True, False])
@settings(max_examples=10, deadline=None)
@given(
    tokens=st.integers(1, 9),
    extra=st.integers(0, 20),
    kv_heads=st.integers(1, 3),
    shared=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_grouped_queries(
    attention_lab: Lab, masked: bool, tokens: int, extra: int, kv_heads: int, shared: int, seed: int
) -> None:
    query = normal(seed, tokens, kv_heads * shared, SIZE)
    key, value = (normal(seed + n, tokens + extra, kv_heads, SIZE) for n in (1, 2))
    mask = causal(tokens, tokens + extra) if masked else None
    scale = 1 / math.sqrt(SIZE)

    def build(q: Tensor, k: Tensor, v: Tensor, m: Tensor | None) -> Tensor:
        return q.scaled_dot_product_attention(k, v, m, scale)

    actual = run(attention_lab, build, mask, query, key, value)
    attention_lab.close_to(actual, attention(query, key, value, mask, scale), 2e-3, 1e-6)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("tokens", [1, 24])
def test_long_history_in_a_cache(attention_lab: Lab, kind: type, tokens: int) -> None:
    cells = 520
    query = normal(1, tokens, 6, 64)
    key: Array = normal(2, cells, 2, 64).astype(kind)
    value: Array = normal(3, cells, 2, 64).astype(kind)
    mask = causal(tokens, cells)

    def build(q: Tensor, k: Tensor, v: Tensor, m: Tensor | None) -> Tensor:
        return q.scaled_dot_product_attention(k, v, m, 0.125)

    actual = run(attention_lab, build, mask, query, key, value)
    attention_lab.close_to(actual, attention(query, key, value, mask, 0.125), 2e-2, 1e-6)


def test_soft_cap(attention_lab: Lab) -> None:
    query, key, value = normal(1, 5, 4, SIZE) * 6, normal(2, 9, 2, SIZE) * 6, normal(3, 9, 2, SIZE)
    mask = causal(5, 9)

    def build(q: Tensor, k: Tensor, v: Tensor, m: Tensor | None) -> Tensor:
        return q.scaled_dot_product_attention(k, v, m, 0.2, logit_softcap=20.0)

    actual = run(attention_lab, build, mask, query, key, value)
    attention_lab.close_to(actual, attention(query, key, value, mask, 0.2, softcap=20.0), 1e-2, 1e-5)
    plain = attention(query, key, value, mask, 0.2)
    assert np.abs(actual - plain).max() > 0.05


def test_sinks(attention_lab: Lab) -> None:
    query, key, value = normal(1, 5, 4, SIZE), normal(2, 9, 2, SIZE), normal(3, 9, 2, SIZE)
    mask, sinks = causal(5, 9), normal(4, 4) * 2

    def build(q: Tensor, k: Tensor, v: Tensor, m: Tensor | None, s: Tensor) -> Tensor:
        return q.scaled_dot_product_attention(k, v, m, 0.2, sinks=s)

    actual = run(attention_lab, build, mask, query, key, value, sinks)
    attention_lab.close_to(actual, attention(query, key, value, mask, 0.2, sinks), 2e-3, 1e-6)


def test_values_wider_than_keys(attention_lab: Lab) -> None:
    query, key, value = normal(1, 3, 4, SIZE), normal(2, 7, 4, SIZE), normal(3, 7, 4, 2 * SIZE)

    def build(q: Tensor, k: Tensor, v: Tensor, m: Tensor | None) -> Tensor:
        return q.scaled_dot_product_attention(k, v, m, 0.2)

    actual = run(attention_lab, build, None, query, key, value)
    assert actual.shape == (3, 4, 2 * SIZE)
    attention_lab.close_to(actual, attention(query, key, value, None, 0.2), 2e-3, 1e-6)


def test_slices_of_one_projection(attention_lab: Lab) -> None:
    fused = normal(1, 6, 8, SIZE)

    def build(x: Tensor) -> Tensor:
        query, key, value = x.chunk_sections(1, 4, 2, 2)
        return query.scaled_dot_product_attention(key, value, None, 0.2)

    expected = attention(fused[:, :4], fused[:, 4:6], fused[:, 6:], None, 0.2)
    attention_lab.close_to(attention_lab.run(build, fused), expected, 2e-3, 1e-6)


@pytest.mark.parametrize("dtype", [DType.F16, DType.Q8_0, DType.Q4_0])
def test_cached_keys_and_values(attention_lab: Lab, dtype: DType) -> None:
    """Key and value in storage of the cache's types; what they hold is the truth."""
    query, key, value = normal(1, 3, 4, SIZE), normal(2, 8, 2, SIZE), normal(3, 8, 2, SIZE)
    backend = attention_lab.backend
    with backend.new_context() as owner, backend.new_context() as context:
        ids = attention_lab.input(context, np.arange(8, dtype=np.int64))
        stored = []
        for content in (key, value):
            cache = owner.layer(0).zeros(dtype, 8, 2 * SIZE)
            rows = attention_lab.input(context, content.reshape(8, 2 * SIZE))
            context.forward(cache.set_rows(rows, ids))
            stored.append(cache)
        keys, values = (cache.on(context).reshape(8, 2, SIZE) for cache in stored)
        result = attention_lab.input(context, query).scaled_dot_product_attention(keys, values, None, 0.2)
        context.forward(result).compute(result)
        held_key, held_value = (cache.floats().reshape(8, 2, SIZE) for cache in stored)
        expected = attention(query, held_key, held_value, None, 0.2)
        attention_lab.close_to(result.floats(), expected, 1e-2, 1e-6)
