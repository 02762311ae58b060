"""Element-by-element operations against NumPy and torch in float64."""

from __future__ import annotations

import math
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

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 2


def by_torch(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Array], Array]:
    return lambda x: function(torch.from_numpy(x)).numpy()


# Name, what is expected, tolerance: the library looks GELU up in a float16 table.
UNARY: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Array], Array], float]] = {
    "neg": (lambda x: x.neg(), lambda x: -x, 0.0),
    "minus": (lambda x: -x, lambda x: -x, 0.0),
    "exp": (lambda x: x.exp(), np.exp, 1e-6),
    "sin": (lambda x: x.sin(), np.sin, 1e-6),
    "cos": (lambda x: x.cos(), np.cos, 1e-6),
    "sqr": (lambda x: x.sqr(), np.square, 1e-6),
    "sqrt": (lambda x: x.sqr().sqrt(), np.abs, 1e-6),
    "tanh": (lambda x: x.tanh(), np.tanh, 1e-6),
    "sigmoid": (lambda x: x.sigmoid(), by_torch(torch.sigmoid), 1e-6),
    "softplus": (lambda x: x.softplus(), by_torch(torch.nn.functional.softplus), 1e-6),
    "relu": (lambda x: x.relu(), by_torch(torch.relu), 0.0),
    "gelu": (
        lambda x: x.gelu(),
        by_torch(lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
        2e-3,
    ),
    "gelu_erf": (lambda x: x.gelu_erf(), by_torch(torch.nn.functional.gelu), 1e-6),
    "silu": (lambda x: x.silu(), by_torch(torch.nn.functional.silu), 1e-6),
    "quick_gelu": (lambda x: x.quick_gelu(), lambda x: x / (1 + np.exp(-1.702 * x)), 2e-3),
    "scale": (lambda x: x.scale(-0.75), lambda x: x * -0.75, 1e-6),
    "scale with bias": (lambda x: x.scale(3.0, -0.5), lambda x: x * 3 - 0.5, 1e-6),
    "times a number": (lambda x: x * 0.25, lambda x: x / 4, 0.0),
    "clamp": (lambda x: x.clamp(-0.5, 1.25), lambda x: np.clip(x, -0.5, 1.25), 0.0),
    "clamp above only": (lambda x: x.clamp(-math.inf, 0.5), lambda x: np.minimum(x, 0.5), 0.0),
}
BINARY: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Array, Array], Array]]] = {
    "add": (lambda x, y: x + y, np.add),
    "sub": (lambda x, y: x - y, np.subtract),
    "mul": (lambda x, y: x * y, np.multiply),
    "div": (lambda x, y: x / y, np.divide),
}
SILU, GELU, RELU = (UNARY[name][1] for name in ("silu", "gelu", "relu"))
GATED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Array, Array], Array], float]] = {
    "swiglu": (lambda x, y: x.swiglu(y), lambda x, y: SILU(x) * y, 1e-6),
    "geglu": (lambda x, y: x.geglu(y), lambda x, y: GELU(x) * y, 2e-3),
    "reglu": (lambda x, y: x.reglu(y), lambda x, y: RELU(x) * y, 1e-6),
    "swiglu_oai": (
        lambda x, y: x.swiglu_oai(y, 1.702, 1.5),
        lambda x, y: (
            np.minimum(x, 1.5) / (1 + np.exp(-1.702 * np.minimum(x, 1.5))) * (np.clip(y, -1.5, 1.5) + 1)
        ),
        1e-6,
    ),
}


def check_unary(lab: Lab, name: str, shape: tuple[int, ...], seed: int) -> None:
    build, expected, tolerance = UNARY[name]
    values = normal(seed, *shape)
    # The tails of GELU are differences of nearly equal numbers: errors are measured beside a plain value.
    values.reshape(-1)[0] = 1.5
    lab.close_to(lab.run(build, values), expected(values.astype(np.float64)), tolerance)


@pytest.mark.parametrize("name", UNARY)
@settings(max_examples=5, deadline=None)
@given(shape=SHAPES, seed=SEEDS)
def test_unary(lab: Lab, name: str, shape: tuple[int, ...], seed: int) -> None:
    check_unary(lab, name, shape, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", UNARY)
@settings(max_examples=200, deadline=None)
@given(shape=SHAPES, seed=SEEDS)
def test_unary_at_length(lab: Lab, name: str, shape: tuple[int, ...], seed: int) -> None:
    check_unary(lab, name, shape, seed)


@pytest.mark.parametrize("name", UNARY)
def test_unary_of_a_permuted_view(lab: Lab, name: str) -> None:
    build, expected, tolerance = UNARY[name]
    values = normal(3, 4, 3, 6)
    actual = lab.run(lambda x: build(x.permute(2, 0, 1)), values)
    lab.close_to(actual, expected(values.astype(np.float64).transpose(2, 0, 1)), tolerance)


@pytest.mark.parametrize("name", UNARY)
def test_unary_leaves_its_operand_alone(lab: Lab, name: str) -> None:
    build, _, _ = UNARY[name]
    values = normal(5, 3, 8)
    inner = lab.run(lambda x: x.scale(1.0).add(build(x.scale(1.0)).scale(0.0)), values)
    np.testing.assert_array_equal(inner, values)

    def operand_after(x: Tensor) -> Tensor:
        middle = x.scale(2.0)
        return build(middle).scale(0.0).add(middle)

    np.testing.assert_allclose(lab.run(operand_after, values), values * 2, rtol=1e-6)


def test_extremes(lab: Lab) -> None:
    values = np.array([-1e4, -90, -20, 0, 20, 90, 1e4], np.float32)
    np.testing.assert_allclose(lab.run(lambda x: x.sigmoid(), values)[[0, 3, 6]], [0, 0.5, 1], atol=1e-7)
    silu = lab.run(lambda x: x.silu(), values)
    np.testing.assert_allclose(silu[[0, 1, 3, 5, 6]], [0, 0, 0, 90, 1e4], atol=1e-6)
    np.testing.assert_allclose(lab.run(lambda x: x.gelu(), values)[[0, 3, 6]], [0, 0, 1e4], atol=1e-6)
    np.testing.assert_array_equal(lab.run(lambda x: x.tanh(), values)[[0, 3, 6]], [-1, 0, 1])


@st.composite
def repeating(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A shape, and one that repeats to it: each size divides its partner, leading axes may be missing."""
    small = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    factors = [draw(st.sampled_from([1, 1, 2, 3])) for _ in small]
    large = tuple(size * factor for size, factor in zip(small, factors, strict=True))
    ones = next((i for i, size in enumerate(small[:-1]) if size != 1), len(small) - 1)
    dropped = draw(st.integers(0, ones))
    return large, tuple(small[dropped:])


def check_binary(lab: Lab, name: str, pair: tuple[tuple[int, ...], tuple[int, ...]], seed: int) -> None:
    build, expected = BINARY[name]
    large, small = pair
    x, y = normal(seed, *large), normal(seed + 1, *small) + np.float32(5.0)
    counts = [a // b for a, b in zip(large, (1,) * (len(large) - len(small)) + small, strict=True)]
    tiled = np.tile(y.astype(np.float64).reshape((1,) * (len(large) - len(small)) + small), counts)
    lab.close_to(lab.run(build, x, y), expected(x.astype(np.float64), tiled), 1e-6)


@pytest.mark.parametrize("name", BINARY)
@settings(max_examples=12, deadline=None)
@given(pair=repeating(), seed=SEEDS)
def test_binary_repeats_the_smaller(
    lab: Lab, name: str, pair: tuple[tuple[int, ...], tuple[int, ...]], seed: int
) -> None:
    check_binary(lab, name, pair, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", BINARY)
@settings(max_examples=400, deadline=None)
@given(pair=repeating(), seed=SEEDS)
def test_binary_at_length(
    lab: Lab, name: str, pair: tuple[tuple[int, ...], tuple[int, ...]], seed: int
) -> None:
    check_binary(lab, name, pair, seed)


@pytest.mark.parametrize("name", BINARY)
def test_binary_of_views(lab: Lab, name: str) -> None:
    build, expected = BINARY[name]
    x, y = normal(1, 4, 3, 8), normal(2, 8, 4, 3) + np.float32(5.0)
    actual = lab.run(lambda a, b: build(a.permute(1, 0, 2), b.permute(2, 1, 0)), x, y)
    lab.close_to(actual, expected(x.transpose(1, 0, 2), y.transpose(2, 1, 0).astype(np.float64)), 1e-6)
    actual = lab.run(lambda a, b: build(a.permute(2, 0, 1), b.permute(0, 1, 2)), x, y)
    lab.close_to(actual, expected(x.transpose(2, 0, 1), y.astype(np.float64)), 1e-6)


def test_binary_of_two_slices(lab: Lab) -> None:
    x = normal(1, 6, 16)
    actual = lab.run(lambda a: a.slice(1, 0, 8) * a.slice(1, 8, 16), x)
    lab.close_to(actual, x[:, :8].astype(np.float64) * x[:, 8:], 1e-6)


@pytest.mark.parametrize("name", GATED)
@settings(max_examples=8, deadline=None)
@given(shape=SHAPES, seed=SEEDS)
def test_gated(lab: Lab, name: str, shape: tuple[int, ...], seed: int) -> None:
    build, expected, tolerance = GATED[name]
    x, y = normal(seed, *shape), normal(seed + 1, *shape)
    lab.close_to(lab.run(build, x, y), expected(x.astype(np.float64), y.astype(np.float64)), tolerance, 1e-6)


@pytest.mark.parametrize("name", GATED)
def test_gated_halves_of_one_tensor(lab: Lab, name: str) -> None:
    build, expected, tolerance = GATED[name]
    both = normal(9, 5, 32)
    actual = lab.run(lambda x: build(x.slice(1, 0, 16), x.slice(1, 16, 32)), both)
    wide = both.astype(np.float64)
    lab.close_to(actual, expected(wide[:, :16], wide[:, 16:]), tolerance, 1e-6)
