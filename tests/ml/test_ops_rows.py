"""Operations along the last axis: softmax, norms, sums, sorting."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.ml import Tensor
from puna.ml.array import Array

if TYPE_CHECKING:
    from tests.ml.conftest import Lab

SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)
EPS = 1e-5


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def last(function: Callable[..., Array]) -> Callable[[Array], Array]:
    return lambda x: function(x, axis=-1, keepdims=True)


REDUCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Array], Array]]] = {
    "softmax": (lambda x: x.softmax(), lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
    "norm": (
        lambda x: x.norm(EPS),
        lambda x: torch.nn.functional.layer_norm(torch.from_numpy(x), x.shape[-1:], eps=EPS).numpy(),
    ),
    "layer_norm": (
        lambda x: x.layer_norm(None, None, EPS),
        lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPS),
    ),
    "rms_norm": (
        lambda x: x.rms_norm(None, EPS),
        lambda x: torch.nn.functional.rms_norm(torch.from_numpy(x), x.shape[-1:], eps=EPS).numpy(),
    ),
    "l2_norm": (
        lambda x: x.l2_norm(EPS),
        lambda x: torch.nn.functional.normalize(torch.from_numpy(x), dim=-1, eps=EPS).numpy(),
    ),
    "sum_rows": (lambda x: x.sum_rows(), last(np.sum)),
    "mean": (lambda x: x.mean(), last(np.mean)),
    "variance": (lambda x: x.variance(), last(np.var)),
    "stddev": (lambda x: x.stddev(), last(np.std)),
}


def check(lab: Lab, name: str, shape: tuple[int, ...], seed: int) -> None:
    build, expected = REDUCTIONS[name]
    # A row of one element has no spread: a norm of it amplifies rounding.
    values = normal(seed, *shape[:-1], shape[-1] + 1)
    lab.close_to(lab.run(build, values), expected(values.astype(np.float64)), 2e-5, 3e-6)


@pytest.mark.parametrize("name", REDUCTIONS)
@settings(max_examples=10, deadline=None)
@given(shape=SHAPES, seed=SEEDS)
def test_along_rows(lab: Lab, name: str, shape: tuple[int, ...], seed: int) -> None:
    check(lab, name, shape, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", REDUCTIONS)
@settings(max_examples=300, deadline=None)
@given(shape=SHAPES, seed=SEEDS)
def test_along_rows_at_length(lab: Lab, name: str, shape: tuple[int, ...], seed: int) -> None:
    check(lab, name, shape, seed)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_along_rows_of_views(lab: Lab, name: str) -> None:
    build, expected = REDUCTIONS[name]
    values = normal(4, 6, 3, 8)
    wide = values.astype(np.float64)
    lab.close_to(
        lab.run(lambda x: build(x.permute(1, 2, 0)), values), expected(wide.transpose(1, 2, 0)), 2e-5, 2e-6
    )
    lab.close_to(lab.run(lambda x: build(x.slice(2, 2, 7)), values), expected(wide[..., 2:7]), 2e-5, 2e-6)
    lab.close_to(lab.run(lambda x: build(x.slice(0, 1, 5, 2)), values), expected(wide[1:5:2]), 2e-5, 2e-6)


def test_long_rows(lab: Lab) -> None:
    values = normal(8, 2, 5000)
    for name, (build, expected) in REDUCTIONS.items():
        if name != "sum_rows":
            lab.close_to(lab.run(build, values), expected(values.astype(np.float64)), 3e-5, 3e-6)


def test_norms_with_weights(lab: Lab) -> None:
    values, weight, bias = normal(1, 3, 256), lab.weights["norm"], normal(2, 256)
    own = lab.weight("output_norm.weight")
    wide = torch.from_numpy(values.astype(np.float64))
    rms = torch.nn.functional.rms_norm(wide, (256,), torch.from_numpy(weight), EPS).numpy()
    lab.close_to(lab.run(lambda x: x.rms_norm(own, EPS), values), rms, 1e-5, 1e-6)
    full = torch.nn.functional.layer_norm(
        wide, (256,), torch.from_numpy(weight), torch.from_numpy(bias.astype(np.float64)), EPS
    )
    lab.close_to(lab.run(lambda x, b: x.layer_norm(own, b, EPS), values, bias), full.numpy(), 1e-5, 1e-6)
    plain = torch.nn.functional.layer_norm(wide, (256,), None, torch.from_numpy(bias.astype(np.float64)), EPS)
    lab.close_to(lab.run(lambda x, b: x.layer_norm(None, b, EPS), values, bias), plain.numpy(), 1e-5, 1e-6)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("flat", [True, False])
def test_softmax_with_mask_and_scale(lab: Lab, kind: type, flat: bool) -> None:
    scores = normal(1, 4, 5, 9)
    mask: Array = np.where(np.random.default_rng(3).random((5, 9)) < 0.4, -np.inf, normal(2, 5, 9)).astype(
        kind
    )
    mask[:, 0] = 0
    wide = scores.astype(np.float64) * 0.35 + mask.astype(np.float64)
    powers = np.exp(wide - wide.max(-1, keepdims=True))
    given_mask = mask if flat else mask[None]
    actual = lab.run(lambda x, m: x.softmax(m, 0.35), scores, given_mask)
    lab.close_to(actual, powers / powers.sum(-1, keepdims=True), 1e-6)
    assert (actual[np.broadcast_to(np.isneginf(mask), actual.shape)] == 0).all()


@pytest.mark.parametrize("masked", [True, False])
def test_softmax_with_sinks(lab: Lab, masked: bool) -> None:
    scores, sinks = normal(1, 4, 5, 9), normal(2, 4) * 2
    mask = np.triu(np.full((5, 9), -np.inf, np.float32), 5) if masked else np.zeros((5, 9), np.float32)
    column = np.broadcast_to(sinks.astype(np.float64).reshape(4, 1, 1), (4, 5, 1))
    joined = torch.from_numpy(np.concatenate([scores * np.float64(0.5) + mask, column], axis=-1))
    expected = torch.softmax(joined, dim=-1).numpy()[..., :-1]
    if masked:
        actual = lab.run(lambda x, m, s: x.softmax(m, 0.5, s), scores, mask, sinks)
    else:
        actual = lab.run(lambda x, s: x.softmax(None, 0.5, s), scores, sinks)
    lab.close_to(actual, expected, 1e-6)


def test_softmax_of_large_scores(lab: Lab) -> None:
    actual = lab.run(lambda x: x.softmax(), np.array([[1000, 999, -1000]], np.float32))
    np.testing.assert_allclose(actual, [[1 / (1 + np.exp(-1)), 1 / (1 + np.e), 0]], rtol=1e-6)


@settings(max_examples=15, deadline=None)
@given(shape=SHAPES, seed=SEEDS)
def test_argsort(lab: Lab, shape: tuple[int, ...], seed: int) -> None:
    values = normal(seed, *shape)
    actual = lab.run(lambda x: x.argsort(), values)
    assert actual.dtype == np.int32
    np.testing.assert_array_equal(actual, np.argsort(values, axis=-1))


@settings(max_examples=15, deadline=None)
@given(shape=SHAPES, seed=SEEDS, k=st.integers(1, 6))
def test_top_k(lab: Lab, shape: tuple[int, ...], seed: int, k: int) -> None:
    values = normal(seed, *shape)
    k = min(k, shape[-1])
    actual = lab.run(lambda x: x.top_k(k).contiguous(), values)
    np.testing.assert_array_equal(actual, torch.topk(torch.from_numpy(values), k).indices.numpy())
