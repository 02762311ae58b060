"""Operations that move elements: shapes, views, copies, writes."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gguf
from puna.errors import InvalidOption
from puna.ml import DType, Tensor
from puna.ml.array import Array

if TYPE_CHECKING:
    from tests.ml.conftest import Lab

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)
QUICK = settings(max_examples=15, deadline=None)


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@QUICK
@given(shape=SHAPES, data=st.data())
def test_permute_and_contiguous(lab: Lab, shape: tuple[int, ...], data: st.DataObject) -> None:
    axes = data.draw(st.permutations(range(len(shape))))
    values = normal(1, *shape)
    expected = values.transpose(axes)
    np.testing.assert_array_equal(lab.run(lambda x: x.permute(*axes).contiguous(), values), expected)
    flat = lab.run(lambda x: x.permute(*axes).contiguous(values.size), values)
    np.testing.assert_array_equal(flat, expected.reshape(-1))
    twice = lab.run(lambda x: x.permute(*axes).permute(*np.argsort(axes).tolist()).contiguous(), values)
    np.testing.assert_array_equal(twice, values)


@QUICK
@given(shape=SHAPES, data=st.data())
def test_reshape(lab: Lab, shape: tuple[int, ...], data: st.DataObject) -> None:
    values = normal(1, *shape)
    axes = data.draw(st.permutations(range(len(shape))))
    expected = values.transpose(axes)
    for target in ((values.size,), (1, -1, shape[0]), (shape[-1], -1), (-1, 1, 1)):
        actual = lab.run(lambda x, t=target: x.permute(*axes).reshape(*t).scale(1.0), values)
        np.testing.assert_array_equal(actual, expected.reshape(target))


def test_reshape_of_rows_that_lie_apart(lab: Lab) -> None:
    values = normal(1, 5, 24)
    actual = lab.run(lambda x: x.slice(1, 8, 20).reshape(5, 3, 4).contiguous(), values)
    np.testing.assert_array_equal(actual, values[:, 8:20].reshape(5, 3, 4))


def test_reshape_that_drops_an_axis_of_one_behind_columns_that_lie_apart(lab: Lab) -> None:
    values = normal(1, 2, 2, 1, 1)
    actual = lab.run(lambda x: x.permute(2, 1, 0, 3).reshape(1, 2, 2).contiguous(), values)
    np.testing.assert_array_equal(actual, values.transpose(2, 1, 0, 3).reshape(1, 2, 2))


def test_reshape_is_no_copy_of_what_is_contiguous(lab: Lab) -> None:
    with lab.backend.new_context() as context:
        x = lab.input(context, normal(1, 4, 6))
        x.reshape(2, 12).write(np.zeros((2, 12), np.float32))
        assert (x.array() == 0).all()


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int32])
def test_view_by_bytes(lab: Lab, kind: type) -> None:
    values: Array = np.arange(5 * 6 * 7).astype(kind).reshape(5, 6, 7)
    size = values.itemsize
    window = lab.run(lambda x: x.view(9 * size, (2, 3, 4), (42 * size, 14 * size)).contiguous(), values)
    flat = values.reshape(-1)
    expected = [[[flat[9 + 42 * i + 14 * j + k] for k in range(4)] for j in range(3)] for i in range(2)]
    np.testing.assert_array_equal(window, np.array(expected))
    dense = lab.run(lambda x: x.view(7 * size, (3, 5)).contiguous(), values)
    np.testing.assert_array_equal(dense, flat[7:22].reshape(3, 5))


def test_view_of_a_view(lab: Lab) -> None:
    values = np.arange(40, dtype=np.float32).reshape(5, 8)
    actual = lab.run(lambda x: x.view(32, (4, 6), (32,)).view(8, (3, 2), (32,)).contiguous(), values)
    np.testing.assert_array_equal(actual, values[1:, :6][:3, 2:4])


def test_views_share_memory(lab: Lab) -> None:
    with lab.backend.new_context() as context:
        x = lab.input(context, np.zeros((4, 6), np.float32))
        x.slice(0, 1, 3).write(np.ones((2, 6), np.float32))
        assert x.array().sum(axis=1).tolist() == [0, 6, 6, 0]
        x.array()[0, 0] = 5
        assert x.floats()[0, 0] == 5


@QUICK
@given(shape=SHAPES, data=st.data())
def test_slice(lab: Lab, shape: tuple[int, ...], data: st.DataObject) -> None:
    values = normal(1, *shape)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    low = data.draw(st.integers(0, shape[axis] - 1))
    high = data.draw(st.integers(low + 1, shape[axis]))
    step = data.draw(st.integers(1, 3))
    index = [slice(None)] * len(shape)
    index[axis] = slice(low, high, step)
    actual = lab.run(lambda x: x.slice(axis, low, high, step).contiguous(), values)
    np.testing.assert_array_equal(actual, values[tuple(index)])


@QUICK
@given(shape=SHAPES, data=st.data())
def test_chunks(lab: Lab, shape: tuple[int, ...], data: st.DataObject) -> None:
    values = normal(1, *shape)
    axis = data.draw(st.integers(0, len(shape) - 1))
    size = data.draw(st.integers(1, 5))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, shape[axis] - 1)), max_size=2)) - {shape[axis]})
    bounds = [0, *cuts, shape[axis]]
    sections = [high - low for low, high in pairwise(bounds)]
    with lab.backend.new_context_size(512) as context:
        x = lab.input(context, values)
        pieces = [piece.contiguous() for piece in x.chunk(axis, size)]
        parts = [part.contiguous() for part in x.chunk_sections(axis, *sections)]
        context.forward(*pieces, *parts).compute(*pieces, *parts)
        splits = np.split(values, range(size, shape[axis], size), axis=axis)
        for piece, expected in zip(pieces, splits, strict=True):
            np.testing.assert_array_equal(piece.floats(), expected)
        for part, expected in zip(parts, np.split(values, cuts, axis=axis), strict=True):
            np.testing.assert_array_equal(part.floats(), expected)


@QUICK
@given(shape=SHAPES, data=st.data())
def test_pad(lab: Lab, shape: tuple[int, ...], data: st.DataObject) -> None:
    values = normal(1, *shape)
    counts = [data.draw(st.integers(0, 3)) for _ in shape]
    actual = lab.run(lambda x: x.pad(*counts), values)
    np.testing.assert_array_equal(actual, np.pad(values, [(0, count) for count in counts]))


@QUICK
@given(shape=SHAPES, data=st.data())
def test_repeat(lab: Lab, shape: tuple[int, ...], data: st.DataObject) -> None:
    values = normal(1, *shape)
    axis, n = data.draw(st.integers(-len(shape), len(shape) - 1)), data.draw(st.integers(1, 4))
    actual = lab.run(lambda x: x.repeat(axis, n), values)
    np.testing.assert_array_equal(actual, np.concatenate([values] * n, axis=axis))


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int32])
@QUICK
@given(shape=SHAPES, data=st.data())
def test_concat_and_stack(lab: Lab, kind: type, shape: tuple[int, ...], data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    parts: list[Array] = []
    for seed in range(3):
        sizes = list(shape)
        sizes[axis] = data.draw(st.integers(1, 4))
        parts.append((normal(seed, *sizes) * 100).astype(kind))
    both = lab.run(lambda a, b: a.concat(b, axis), *parts[:2])
    np.testing.assert_array_equal(both, np.concatenate(parts[:2], axis=axis))
    every = lab.run(lambda a, b, c: a.stack(axis, b, c), *parts)
    np.testing.assert_array_equal(every, np.concatenate(parts, axis=axis))


def test_moving_views(lab: Lab) -> None:
    values, other = normal(1, 4, 3, 6), normal(2, 6, 3, 4)
    turned = other.transpose(2, 1, 0)
    actual = lab.run(lambda a, b: a.concat(b.permute(2, 1, 0), 1), values, other)
    np.testing.assert_array_equal(actual, np.concatenate([values, turned], axis=1))
    actual = lab.run(lambda a, b: b.permute(2, 1, 0).concat(a, 2), values, other)
    np.testing.assert_array_equal(actual, np.concatenate([turned, values], axis=2))
    actual = lab.run(lambda b: b.permute(2, 1, 0).pad(1, 0, 2), other)
    np.testing.assert_array_equal(actual, np.pad(turned, [(0, 1), (0, 0), (0, 2)]))
    actual = lab.run(lambda b: b.permute(2, 1, 0).repeat(1, 2), other)
    np.testing.assert_array_equal(actual, np.concatenate([turned, turned], axis=1))
    actual = lab.run(lambda b: b.permute(2, 1, 0).duplicate(), other)
    np.testing.assert_array_equal(actual, turned)


def test_set(lab: Lab) -> None:
    values, row, block = normal(1, 4, 6), normal(2, 5), normal(3, 2, 3)
    expected = values.copy()
    expected.reshape(-1)[7:12] = row
    np.testing.assert_array_equal(lab.run(lambda x, y: x.set(y, 28), values, row), expected)
    expected = values.copy()
    expected[1:3, 2:5] = block
    np.testing.assert_array_equal(lab.run(lambda x, y: x.set(y, 32, 24), values, block), expected)

    def before_and_after(x: Tensor, y: Tensor) -> Tensor:
        middle = x.scale(1.0)
        return middle.set(y, 28).scale(0.0).add(middle)

    np.testing.assert_array_equal(lab.run(before_and_after, values, row), values)


def error_of(dtype: DType, values: Array) -> Array:
    """The largest rounding error of each row in the given type."""
    if dtype is DType.F32:
        return np.zeros(len(values))
    steps = {DType.F16: 2**-11, DType.BF16: 2**-8, DType.Q8_0: 0.6 / 127, DType.Q4_0: 0.6 / 7}
    largest: Array = np.abs(values).max(axis=1)
    return largest * steps[dtype] * (2 if dtype is DType.Q4_0 else 1)


CACHE_TYPES = (DType.F32, DType.F16, DType.BF16, DType.Q8_0, DType.Q4_0)


@pytest.mark.parametrize("dtype", CACHE_TYPES)
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_set_rows_writes_storage(lab: Lab, dtype: DType, kind: type) -> None:
    values = normal(1, 3, 64)
    ids: Array = np.array([5, 0, 2], kind)
    with lab.backend.new_context() as owner, lab.backend.new_context() as context:
        cache = owner.layer(0).zeros(dtype, 6, 64)
        written = cache.set_rows(lab.input(context, values), lab.input(context, ids))
        assert written.shape == cache.shape
        context.forward(written).compute()
        found = cache.floats()
    assert (found[[1, 3, 4]] == 0).all()
    assert (np.abs(found[ids] - values).max(axis=1) <= error_of(dtype, values)).all()


@pytest.mark.parametrize("dtype", [DType.Q8_0, DType.Q4_0, DType.F16])
def test_stored_bytes_are_the_format_s(lab: Lab, dtype: DType) -> None:
    values = normal(1, 3, 64)
    with lab.backend.new_context() as owner, lab.backend.new_context() as context:
        cache = owner.layer(0).zeros(dtype, 3, 64)
        written = cache.set_rows(lab.input(context, values), lab.input(context, np.arange(3, dtype=np.int32)))
        context.forward(written).compute()
        content = cache.tobytes()
    expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType[dtype.name])
    assert content == expected.tobytes()


def test_set_rows_writes_a_part_of_storage(lab: Lab) -> None:
    values = normal(1, 2, 8)
    with lab.backend.new_context() as owner, lab.backend.new_context() as context:
        cache = owner.layer(0).zeros(DType.F32, 6, 8)
        part = cache.on(context).view(2 * 32, (3, 8))
        ids = lab.input(context, np.array([2, 0], np.int64))
        context.forward(part.set_rows(lab.input(context, values), ids)).compute()
        expected = np.zeros((6, 8), np.float32)
        expected[[4, 2]] = values
        np.testing.assert_array_equal(cache.floats(), expected)


def test_set_rows_of_a_slice(lab: Lab) -> None:
    values = normal(1, 2, 24)
    with lab.backend.new_context() as owner, lab.backend.new_context() as context:
        cache = owner.layer(0).zeros(DType.F32, 4, 8)
        heads = lab.input(context, values).slice(1, 8, 16)
        context.forward(cache.set_rows(heads, lab.input(context, np.array([3, 1], np.int32)))).compute()
        np.testing.assert_array_equal(cache.floats()[[3, 1]], values[:, 8:16])


@pytest.mark.parametrize("dtype", CACHE_TYPES)
def test_copy_into_storage(lab: Lab, dtype: DType) -> None:
    values = normal(1, 3, 64)
    with lab.backend.new_context() as owner, lab.backend.new_context() as context:
        cache = owner.layer(0).zeros(dtype, 6, 64)
        size = len(cache.tobytes()) // 6
        target = cache.on(context).view(2 * size, (3, 64))
        copied = lab.input(context, values).copy(target)
        assert copied.dtype is dtype
        context.forward(copied).compute()
        found = cache.floats()
    assert (found[[0, 1, 5]] == 0).all()
    assert (np.abs(found[2:5] - values).max(axis=1) <= error_of(dtype, values)).all()


def test_copy_into_another_shape(lab: Lab) -> None:
    values = normal(1, 4, 6)
    with lab.backend.new_context() as owner, lab.backend.new_context() as context:
        cache = owner.layer(0).zeros(DType.F32, 3, 8)
        context.forward(lab.input(context, values).permute(1, 0).copy(cache)).compute()
        np.testing.assert_array_equal(cache.floats(), values.T.reshape(3, 8))


def test_copy_between_caches_of_different_types(lab: Lab) -> None:
    values = normal(1, 2, 32)
    with lab.backend.new_context() as owner, lab.backend.new_context() as context:
        half = owner.layer(0).empty(DType.F16, 2, 32)
        half.write(values.astype(np.float16))
        wide = owner.layer(0).zeros(DType.F32, 2, 32)
        context.forward(half.on(context).copy(wide)).compute()
        np.testing.assert_array_equal(wide.floats(), values.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("dtype", CACHE_TYPES)
def test_cast_there_and_back(lab: Lab, dtype: DType) -> None:
    values = normal(1, 5, 64)
    actual = lab.run(lambda x: x.cast(dtype).cast(DType.F32), values)
    assert (np.abs(actual - values).max(axis=1) <= error_of(dtype, values)).all()


def test_cast_of_half_and_of_integers(lab: Lab) -> None:
    half = normal(1, 3, 8).astype(np.float16)
    np.testing.assert_array_equal(lab.run(lambda x: x.cast(DType.F32), half), half.astype(np.float32))
    np.testing.assert_array_equal(lab.run(lambda x: x.cast(DType.F16), half.astype(np.float32)), half)
    numbers = np.array([[-3, 0, 7]], np.int32)
    np.testing.assert_array_equal(lab.run(lambda x: x.cast(DType.F32), numbers), numbers)
    back = lab.run(lambda x: x.cast(DType.I32), np.array([[-3.75, 0.5, 7.0]], np.float32))
    np.testing.assert_array_equal(back, [[-3, 0, 7]])


def test_cast_of_a_view(lab: Lab) -> None:
    values = normal(1, 4, 3, 8)
    actual = lab.run(lambda x: x.permute(1, 0, 2).cast(DType.F16).cast(DType.F32), values)
    np.testing.assert_allclose(actual, values.transpose(1, 0, 2), rtol=1e-3)


def test_chunk_of_a_size_below_one(lab: Lab) -> None:
    with lab.backend.new_context() as context, pytest.raises(InvalidOption, match="size"):
        lab.input(context, normal(1, 4)).chunk(0, 0)
