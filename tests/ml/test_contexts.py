"""Contexts: inputs, storage, order, running again, limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from puna.errors import BackendError, InvalidOption
from puna.ml import Context, DType, RopeParameters, RopeType, Tensor
from puna.ml.array import Array

if TYPE_CHECKING:
    from tests.ml.conftest import Lab


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_inputs_hold_what_they_were_given(lab: Lab) -> None:
    with lab.backend.new_context() as context:
        place = context.input()
        floats = place.from_floats([1, 2.5, -3, 4, 5, 6], 2, 3)
        ints = place.from_ints(np.arange(6), 3, 2)
        assert (floats.dtype, floats.shape) == (DType.F32, (2, 3))
        assert (ints.dtype, ints.shape) == (DType.I32, (3, 2))
        assert floats.readable() and ints.readable()
        assert floats.floats().tolist() == [[1, 2.5, -3], [4, 5, 6]]
        assert ints.array().tolist() == [[0, 1], [2, 3], [4, 5]]
        assert ints.tobytes() == np.arange(6, dtype="<i4").tobytes()
        assert [floats.dim(axis) for axis in (0, 1, -1)] == [2, 3, 3]
        assert [floats.stride(axis) for axis in (0, 1, -1)] == [12, 4, 4]


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.I32, DType.I64, DType.BF16, DType.Q8_0])
def test_zeros(lab: Lab, dtype: DType) -> None:
    with lab.backend.new_context() as context:
        for place in (context.input(), context.layer(1)):
            tensor = place.zeros(dtype, 2, 3, 32)
            assert tensor.shape == (2, 3, 32)
            assert not any(tensor.tobytes())


def test_arange(lab: Lab) -> None:
    with lab.backend.new_context() as context:
        steps = context.arange(1, 2, 0.25, DType.F32)
        numbers = context.arange(3, 9, 2, DType.I32)
        results = steps.scale(1.0), numbers.cast(DType.F32)
        context.forward(*results).compute(*results)
        assert results[0].floats().tolist() == [1, 1.25, 1.5, 1.75]
        assert results[1].floats().tolist() == [3, 5, 7]
        with pytest.raises(InvalidOption, match="F16"):
            context.arange(0, 3, 1, DType.F16)


def test_nothing_is_computed_before_compute(lab: Lab) -> None:
    with lab.backend.new_context() as context:
        result = lab.input(context, normal(1, 2, 3)).exp()
        assert not result.readable()
        with pytest.raises(BackendError, match="compute"):
            result.floats()
        context.forward(result)
        assert not result.readable()
        context.compute(result)
        assert result.readable()


def network(lab: Lab, context: Context, inputs: list[Tensor], cache: Tensor) -> Tensor:
    """A little of everything: a projection, heads, positions, a cache, attention, a gate."""
    x, positions, cells = inputs
    hidden = lab.weight("blk.0.Q8_0.weight").mul_mat(x.rms_norm(lab.weight("output_norm.weight"), 1e-5))
    heads = hidden.slice(1, 0, 16).reshape(-1, 2, 8)
    heads = heads.rope(positions, RopeParameters(8, type=RopeType.NEOX))
    stored = cache.set_rows(heads.reshape(-1, 16), cells)
    context.forward(stored)
    keys = cache.on(context).reshape(-1, 2, 8)
    attended = heads.scaled_dot_product_attention(keys, keys, None, 0.3)
    return attended.reshape(-1, 16).swiglu(hidden.slice(1, 8, 24)).softmax()


def step_inputs(seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    cells = rng.permutation(6)[:2].astype(np.int64)
    return [normal(seed, 2, 256), rng.integers(0, 50, 2).astype(np.int32), cells]


def test_replay_equals_a_new_graph(lab: Lab) -> None:
    """Both sides write their own cache, so the steps build on each other."""
    with lab.backend.new_context() as owner, lab.backend.new_context() as context:
        replayed, rebuilt = (owner.layer(0).zeros(DType.F16, 6, 16) for _ in range(2))
        inputs = [lab.input(context, values) for values in step_inputs(0)]
        result = network(lab, context, inputs, replayed)
        context.forward(result)
        for seed in range(12):
            for tensor, values in zip(inputs, step_inputs(seed), strict=True):
                tensor.array()[...] = values
            context.compute(result)
            again = result.floats()
            with lab.backend.new_context() as fresh:
                anew = network(
                    lab, fresh, [lab.input(fresh, values) for values in step_inputs(seed)], rebuilt
                )
                fresh.forward(anew).compute(anew)
                np.testing.assert_array_equal(again, anew.floats())
        np.testing.assert_array_equal(replayed.floats(), rebuilt.floats())


def test_replay_of_two_graphs_in_turn(lab: Lab) -> None:
    with lab.backend.new_context() as first, lab.backend.new_context() as second:
        small, large = lab.input(first, normal(1, 1, 256)), lab.input(second, normal(2, 40, 256))
        weight = lab.weight("blk.0.F16.weight")
        results = weight.mul_mat(small.exp()).tanh(), weight.mul_mat(large.sin()).tanh()
        first.forward(results[0])
        second.forward(results[1])
        seen: list[list[Array]] = [[], []]
        for turn in range(6):
            (first, second)[turn % 2].compute(results[turn % 2])
            seen[turn % 2].append(results[turn % 2].floats())
        for values in seen:
            np.testing.assert_array_equal(values[0], values[1])
            np.testing.assert_array_equal(values[0], values[2])


def test_write_and_array_reach_the_next_run(lab: Lab) -> None:
    with lab.backend.new_context() as context:
        x = lab.input(context, np.zeros((2, 2), np.float32))
        result = x.scale(2.0)
        context.forward(result).compute(result)
        assert result.floats().tolist() == [[0, 0], [0, 0]]
        x.write(np.array([[1, 2], [3, 4]], np.float32))
        context.compute(result)
        assert result.floats().tolist() == [[2, 4], [6, 8]]
        x.array()[1, 1] = 10
        context.compute(result)
        assert result.floats().tolist() == [[2, 4], [6, 20]]
        with pytest.raises(InvalidOption, match="bytes"):
            x.write(np.zeros(3, np.float32))


@pytest.mark.parametrize("write_first", [True, False])
def test_forward_fixes_the_order(lab: Lab, write_first: bool) -> None:
    with lab.backend.new_context() as owner, lab.backend.new_context() as context:
        cache = owner.layer(0).zeros(DType.F32, 4, 8)
        values = lab.input(context, np.ones((1, 8), np.float32))
        written = cache.set_rows(values, lab.input(context, np.array([2], np.int32)))
        read = cache.on(context).scale(1.0)
        order = (written, read) if write_first else (read, written)
        context.forward(order[0]).forward(order[1]).compute(read)
        assert read.floats().sum() == (8 if write_first else 0)
        assert cache.floats().sum() == 8


def test_several_results_and_what_was_not_asked_for(lab: Lab) -> None:
    with lab.backend.new_context() as context:
        x = lab.input(context, normal(1, 3, 4))
        middle = x.exp()
        first, second = middle.sum_rows(), middle.sqr()
        context.forward(first, second).compute(first, second)
        wide = x.floats().astype(np.float64)
        np.testing.assert_allclose(first.floats(), np.exp(wide).sum(1, keepdims=True), rtol=1e-5)
        np.testing.assert_allclose(second.floats(), np.exp(2 * wide), rtol=1e-5)
        assert not middle.readable()


def test_results_last_until_another_context_computes(lab: Lab) -> None:
    with lab.backend.new_context() as first, lab.backend.new_context() as second:
        results = [lab.input(context, normal(1, 3)).exp() for context in (first, second)]
        first.forward(results[0]).compute(results[0])
        second.forward(results[1]).compute(results[1])
        assert results[1].readable() and not results[0].readable()
        with pytest.raises(BackendError):
            results[0].floats()


def test_storage_outlives_graphs(lab: Lab) -> None:
    with lab.backend.new_context() as owner:
        cache = owner.layer(1).zeros(DType.F32, 3, 4)
        for row in range(3):
            with lab.backend.new_context() as context:
                values = lab.input(context, np.full((1, 4), row + 1, np.float32))
                written = cache.set_rows(values, context.input().from_ints([row], 1))
                context.forward(written).compute()
        assert cache.floats()[:, 0].tolist() == [1, 2, 3]


def test_operands_without_a_context(lab: Lab) -> None:
    weight = lab.weight("output_norm.weight")
    with pytest.raises(InvalidOption, match="context"):
        weight.exp()
    with lab.backend.new_context() as context:
        result = weight.on(context).exp()
        context.forward(result).compute(result)
        lab.close_to(result.floats(), np.exp(lab.weights["norm"]), 1e-6)


def test_where_tensors_go_must_be_said(lab: Lab) -> None:
    with lab.backend.new_context() as context, pytest.raises(InvalidOption, match="input"):
        context.empty(DType.F32, 3)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, -1), (1, 1, 1, 1, 1)])
def test_impossible_shapes(lab: Lab, shape: tuple[int, ...]) -> None:
    with lab.backend.new_context() as context, pytest.raises(InvalidOption):
        context.input().empty(DType.F32, *shape)


def test_values_that_do_not_fit(lab: Lab) -> None:
    with lab.backend.new_context() as context:
        with pytest.raises(InvalidOption, match="5 values"):
            context.input().from_floats([1, 2, 3, 4, 5], 2, 3)
        with pytest.raises(InvalidOption, match="OTHER"):
            context.input().empty(DType.OTHER, 4)
        with pytest.raises(InvalidOption, match="block"):
            context.layer(0).zeros(DType.Q8_0, 2, 33)


def test_graph_sizes(lab: Lab) -> None:
    with lab.backend.new_context() as context:
        limit = context.max_graph_nodes()
        assert limit >= 1024
    with pytest.raises(InvalidOption, match=str(limit)):
        lab.backend.new_context_size(limit + 1)
    with lab.backend.new_context_size(8) as context:
        assert context.max_graph_nodes() == 8
        x = lab.input(context, normal(1, 4))
        with pytest.raises(BackendError, match="nodes"):
            for _ in range(40):
                x = x.exp()
            context.forward(x)


def test_compute_without_forward(lab: Lab) -> None:
    with lab.backend.new_context() as context, pytest.raises((BackendError, InvalidOption), match="forward"):
        context.compute(lab.input(context, normal(1, 4)).exp())


def test_a_computed_graph_cannot_grow(lab: Lab) -> None:
    with lab.backend.new_context() as context:
        x = lab.input(context, normal(1, 4))
        result = x.exp()
        context.forward(result).compute(result)
        with pytest.raises(InvalidOption, match="grow"):
            context.forward(x.sin())


def test_closing_twice(lab: Lab) -> None:
    context = lab.backend.new_context()
    result = lab.input(context, normal(1, 4)).exp()
    context.forward(result).compute(result)
    context.close()
    context.close()


def test_reserve_then_compute(lab: Lab) -> None:
    with lab.backend.new_context() as worst, lab.backend.new_context() as context:
        large = lab.input(worst, normal(1, 300, 256)).exp().tanh()
        worst.forward(large).reserve()
        size = lab.backend.backend_memory().cpu.graph.size
        assert size >= 300 * 256 * 4
        small = lab.input(context, normal(1, 3, 256)).exp().tanh()
        context.forward(small).compute(small)
        assert lab.backend.backend_memory().cpu.graph.size == size
