"""Products with matrices, plain and quantised, and rows taken from them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.ml import DType
from puna.ml.array import Array

if TYPE_CHECKING:
    from tests.ml.conftest import Lab

SEEDS = st.integers(0, 2**32 - 1)
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4")
K_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@st.composite
def operands(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a matrix and of the vectors it multiplies; leading axes of the matrix divide the vectors'."""
    rows, count, width = (draw(st.integers(1, 9)) for _ in range(3))
    leading = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=2))
    matrix = [size for size, _ in leading]
    vectors = [size * factor for size, factor in leading]
    while matrix and matrix[0] == 1 and draw(st.booleans()):
        matrix.pop(0)
    return (*matrix, rows, width), (*vectors, count, width)


def product(matrix: Array, vectors: Array) -> Array:
    """Each matrix serves consecutive slices of the vectors; written out as loops over the slices."""
    matrices = matrix.astype(np.float64).reshape((1,) * (4 - matrix.ndim) + matrix.shape)
    wide = vectors.astype(np.float64).reshape((1,) * (4 - vectors.ndim) + vectors.shape)
    result = np.empty((*wide.shape[:3], matrices.shape[2]))
    for i in range(wide.shape[0]):
        for j in range(wide.shape[1]):
            chosen = matrices[i * matrices.shape[0] // wide.shape[0], j * matrices.shape[1] // wide.shape[1]]
            result[i, j] = wide[i, j] @ chosen.T
    return result.reshape(*vectors.shape[:-1], matrix.shape[-2])


def check_product(lab: Lab, shapes: tuple[tuple[int, ...], tuple[int, ...]], seed: int) -> None:
    matrix, vectors = normal(seed, *shapes[0]), normal(seed + 1, *shapes[1])
    for method in ("mul_mat", "mul_mat_full_prec"):
        actual = lab.run(lambda a, b, name=method: getattr(a, name)(b), matrix, vectors)
        lab.close_to(actual, product(matrix, vectors), 1e-5)


@settings(max_examples=30, deadline=None)
@given(shapes=operands(), seed=SEEDS)
def test_mul_mat(lab: Lab, shapes: tuple[tuple[int, ...], tuple[int, ...]], seed: int) -> None:
    check_product(lab, shapes, seed)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(shapes=operands(), seed=SEEDS)
def test_mul_mat_at_length(lab: Lab, shapes: tuple[tuple[int, ...], tuple[int, ...]], seed: int) -> None:
    check_product(lab, shapes, seed)


@pytest.mark.parametrize("axes", [(0, 2, 1), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_mul_mat_of_permuted_operands(lab: Lab, axes: tuple[int, int, int]) -> None:
    back = np.argsort(axes)
    matrix, vectors = normal(1, 2, 5, 12), normal(2, 4, 3, 12)
    lying = [np.ascontiguousarray(x.transpose(back)) for x in (matrix, vectors)]
    actual = lab.run(lambda a, b: a.permute(*axes).mul_mat(b), lying[0], vectors)
    lab.close_to(actual, product(matrix, vectors), 1e-5)
    actual = lab.run(lambda a, b: a.mul_mat(b.permute(*axes)), matrix, lying[1])
    lab.close_to(actual, product(matrix, vectors), 1e-5)


def test_mul_mat_of_a_slice(lab: Lab) -> None:
    matrix, vectors = normal(1, 6, 20), normal(2, 3, 8)
    actual = lab.run(lambda a, b: a.slice(1, 4, 12).mul_mat(b), matrix, vectors)
    lab.close_to(actual, product(matrix[:, 4:12], vectors), 1e-5)


def activation_error(lab: Lab, name: str, vectors: Array) -> float:
    """Standard deviation, or a bound above it, of what the type's kernel loses of one activation."""
    if lab.is_exact or name == "F32":
        return float(np.abs(vectors).max()) * 2**-24
    if name in ("F16", "BF16"):
        return float(np.abs(vectors).max()) * (2**-11 if name == "F16" else 2**-8)
    return float(np.abs(vectors).max()) / 127 / math.sqrt(12)


@pytest.mark.parametrize("count", [1, 4, 33])
@pytest.mark.parametrize("name", (*TYPES, *K_TYPES))
def test_mul_mat_of_weights(lab: Lab, name: str, count: int) -> None:
    vectors = normal(5, count, 256)
    true = lab.weights[name]
    actual = lab.run(lambda x: lab.weight(f"blk.0.{name}.weight").mul_mat(x), vectors)
    expected = vectors.astype(np.float64) @ true.T
    # Independent errors add up as their squares do; six deviations, and float32 sums on top.
    lost = 6 * activation_error(lab, name, vectors) * np.sqrt(np.square(true).sum(axis=1))
    lost = lost + 1e-5 * np.abs(expected).max() * (0.1 if lab.is_exact else 1)
    assert (np.abs(actual - expected) <= lost).all()


@pytest.mark.parametrize("name", (*TYPES, *K_TYPES))
def test_rows_of_weights(lab: Lab, name: str) -> None:
    ids = np.array([3, 0, 23, 3], np.int32)
    actual = lab.run(lambda i: lab.weight(f"blk.0.{name}.weight", rows=True).rows(i), ids)
    np.testing.assert_allclose(actual, lab.weights[name][ids], rtol=1e-6, atol=1e-7)


def test_rows_of_batches(lab: Lab) -> None:
    tables, ids = normal(1, 2, 3, 5, 8), np.random.default_rng(2).integers(0, 5, (2, 3, 7)).astype(np.int32)
    actual = lab.run(lambda t, i: t.rows(i), tables, ids)
    np.testing.assert_array_equal(actual, np.take_along_axis(tables, ids[..., None].astype(np.int64), axis=2))


def test_rows_of_integers(lab: Lab) -> None:
    table = np.arange(12, dtype=np.int32).reshape(4, 3)
    actual = lab.run(lambda t, i: t.rows(i), table, np.array([2, 0], np.int32))
    assert actual.dtype == np.int32
    np.testing.assert_array_equal(actual, table[[2, 0]])


@pytest.mark.parametrize("shared", [True, False])
@settings(max_examples=12, deadline=None)
@given(
    experts=st.integers(1, 5),
    tokens=st.integers(1, 5),
    used=st.integers(1, 3),
    width=st.integers(1, 9),
    seed=SEEDS,
)
def test_mul_mat_id(
    lab: Lab, shared: bool, experts: int, tokens: int, used: int, width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    used = min(used, experts)
    matrices, vectors = (
        normal(seed, experts, 6, width),
        normal(seed + 1, tokens, 1 if shared else used, width),
    )
    ids = np.stack([rng.permutation(experts)[:used] for _ in range(tokens)]).astype(np.int32)
    actual = lab.run(lambda m, v, i: m.mul_mat_id(v, i), matrices, vectors, ids)
    expected = np.empty((tokens, used, 6))
    for token in range(tokens):
        for slot in range(used):
            vector = vectors[token, 0 if shared else slot].astype(np.float64)
            expected[token, slot] = matrices[ids[token, slot]].astype(np.float64) @ vector
    lab.close_to(actual, expected, 1e-5)


def test_add_id(lab: Lab) -> None:
    values, bias = normal(1, 3, 2, 8), normal(2, 4, 8)
    ids = np.array([[0, 3], [1, 1], [2, 0]], np.int32)
    actual = lab.run(lambda x, b, i: x.add_id(b, i), values, bias, ids)
    lab.close_to(actual, values.astype(np.float64) + bias[ids], 1e-6)


def test_results_are_f32(lab: Lab) -> None:
    with lab.backend.new_context() as context:
        vectors = lab.input(context, normal(1, 2, 256))
        assert lab.weight("blk.0.F16.weight").mul_mat(vectors).dtype is DType.F32
        assert lab.weight("blk.0.Q4_K.weight").mul_mat(vectors).shape == (2, 24)
