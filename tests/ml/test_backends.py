"""Opening, loading, weights, the memory report, planning."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np
import pytest

from puna.errors import BackendError, Interrupted, InvalidOption
from puna.gguf import GGMLType, GGUFWriter
from puna.ml import AllocationStatus, Backend, BackendParams, DType, InsufficientMemory, new_backend
from puna.ml.array import Array

if TYPE_CHECKING:
    from tests.ml.conftest import Lab

Model = tuple[Path, dict[str, Array]]
BACKENDS = pytest.mark.parametrize("name", ["reference", "ggml"])


def product(backend: Backend, weight: str) -> Array:
    with backend.new_context() as context:
        matrix = backend.get(weight)
        assert matrix is not None
        vectors = context.input().from_floats(np.ones(256), 1, 256)
        result = matrix.mul_mat(vectors)
        context.forward(result).compute(result)
        return result.floats()


@BACKENDS
def test_names_and_config(name: str, model: Model) -> None:
    with new_backend(model[0], name=name) as backend:
        assert {"blk.0.Q4_K.weight", "output_norm.weight"} <= set(backend.names())
        assert backend.config().uint("block_count") == 2
        assert backend.get("no.such.weight") is None


@BACKENDS
def test_weights_say_what_they_are(name: str, model: Model) -> None:
    with new_backend(model[0], name=name) as backend:
        for suffix, dtype in (("F32", DType.F32), ("Q4_K", DType.Q4_K), ("Q2_K", DType.OTHER)):
            weight = backend.get(f"blk.0.{suffix}.weight", rows=True)
            assert weight is not None
            assert (weight.shape, weight.dtype) == ((24, 256), dtype)
            assert not weight.readable()


@BACKENDS
def test_only_what_was_asked_for_is_loaded(name: str, model: Model) -> None:
    with new_backend(model[0], name=name) as backend:
        backend.get("blk.0.F32.weight")
        backend.load()
        assert backend.get("blk.0.F32.weight") is not None
        assert backend.get("blk.0.F16.weight") is None
        np.testing.assert_allclose(
            product(backend, "blk.0.F32.weight")[0], model[1]["F32"].sum(axis=1), atol=1e-3
        )


@BACKENDS
def test_progress(name: str, model: Model) -> None:
    seen: list[float] = []
    with new_backend(model[0], name=name) as backend:
        for weight in backend.names():
            backend.get(weight)
        backend.load(seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert min(seen) >= 0.0


@BACKENDS
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_plain_weights_of_either_byte_order(name: str, byte_order: str, tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal((4, 256)).astype(np.float32)
    with GGUFWriter(tmp_path / "m.gguf", byte_order=byte_order) as writer:  # type: ignore[arg-type] # parametrised
        writer.add("general.architecture", "tiny")
        writer.add_tensor("a", GGMLType.F32, (4, 256), values.astype(f"{byte_order}f4").tobytes())
        writer.add_tensor("b", GGMLType.F16, (4, 256), values.astype(f"{byte_order}f2").tobytes())
    with new_backend(tmp_path / "m.gguf", name=name) as backend:
        for weight in ("a", "b"):
            backend.get(weight)
        backend.load()
        for weight, tolerance in (("a", 1e-5), ("b", 1e-1)):
            np.testing.assert_allclose(product(backend, weight)[0], values.sum(axis=1), atol=tolerance)


def test_concatenated_weights(lab: Lab, model: Model) -> None:
    names = ["blk.1.a.weight", "blk.1.b.weight"]
    with new_backend(model[0], name=lab.name) as backend:
        joined = backend.get_concatenated(names)
        assert joined is not None
        assert joined.shape == (24, 256)
        assert backend.get_concatenated(["blk.1.a.weight", "blk.0.F16.weight"]) is None
        assert backend.get_concatenated(["blk.1.a.weight", "no.such.weight"]) is None
        backend.load()
        with backend.new_context() as context:
            result = joined.mul_mat(context.input().from_floats(np.ones(256), 1, 256))
            context.forward(result).compute(result)
            expected = np.concatenate([model[1]["a"], model[1]["b"]]).sum(axis=1)
            np.testing.assert_allclose(result.floats()[0], expected, atol=1e-3)
    with new_backend(model[0], BackendParams(fuse=False), name=lab.name) as backend:
        assert backend.get_concatenated(names) is None


@BACKENDS
def test_the_report_names_each_layer(name: str, model: Model) -> None:
    with new_backend(model[0], name=name) as backend:
        backend.get("blk.0.F32.weight", rows=True)
        for weight in ("blk.0.F16.weight", "blk.1.a.weight", "output_norm.weight"):
            backend.get(weight)
        backend.load()
        with backend.new_context() as context:
            context.layer(1).zeros(DType.F16, 10, 64)
            x = context.input().zeros(DType.F32, 8, 256).exp()
            context.forward(x).reserve()
            memory = backend.backend_memory()
        assert memory.input_weights.size >= 24 * 256 * 4
        assert [entry.size for entry in memory.cpu.weights] >= [24 * 256 * 2, 12 * 256 * 4, 256 * 4]
        assert len(memory.cpu.weights) == len(memory.cpu.cache) == 3
        assert [entry.size >= 10 * 64 * 2 for entry in memory.cpu.cache] == [False, True, False]
        assert memory.cpu.graph.size >= 8 * 256 * 4
        assert memory.input_weights.status is AllocationStatus.ALLOCATED
        memory.cpu.cache[1].size = 0
        assert backend.backend_memory().cpu.cache[1].size > 0


@BACKENDS
def test_a_plan_equals_what_is_allocated(name: str, model: Model) -> None:
    reports = []
    for alloc_memory in (False, True):
        with new_backend(model[0], BackendParams(alloc_memory=alloc_memory), name=name) as backend:
            weight = backend.get("blk.0.F16.weight")
            assert weight is not None
            backend.load()
            with backend.new_context() as context:
                cache = context.layer(0).zeros(DType.F16, 32, 24)
                x = context.input().from_floats(np.zeros(4 * 256), 4, 256)
                written = cache.set_rows(weight.mul_mat(x), context.input().from_ints(range(4), 4))
                context.forward(written, weight.mul_mat(x).exp()).reserve()
                reports.append(backend.backend_memory())
                if not alloc_memory:
                    assert not weight.readable()
                    with pytest.raises(BackendError, match="plan"):
                        context.compute()
    planned, real = reports
    assert planned.cpu.weights[0].status is AllocationStatus.UNALLOCATED
    assert real.cpu.weights[0].status is AllocationStatus.ALLOCATED
    assert (planned.size, planned.cpu.graph.size) == (real.size, real.cpu.graph.size)
    assert [entry.size for entry in planned.cpu.cache] == [entry.size for entry in real.cpu.cache]


@BACKENDS
def test_running_out_of_memory(name: str, model: Model) -> None:
    with new_backend(model[0], name=name) as backend, backend.new_context() as context:
        with pytest.raises(InsufficientMemory) as caught:
            context.layer(1).zeros(DType.F16, 1 << 24, 1 << 25)
        entry = caught.value.memory.cpu.cache[1]
        assert (entry.status, entry.size) == (AllocationStatus.FAILED, 1 << 50)
        assert f"{1 << 50}F" in str(caught.value)
        with pytest.raises(InsufficientMemory):
            context.input().zeros(DType.F32, 1 << 24, 1 << 24)
        assert context.input().zeros(DType.F32, 4).floats().sum() == 0


@BACKENDS
def test_running_out_of_memory_for_results(name: str, model: Model) -> None:
    with new_backend(model[0], name=name) as backend, backend.new_context() as context:
        huge = context.input().from_floats([1], 1, 1).repeat(0, 1 << 24).repeat(1, 1 << 24)
        with pytest.raises(InsufficientMemory) as caught:
            context.forward(huge).compute(huge)
        assert caught.value.memory.cpu.graph.status is AllocationStatus.FAILED


def test_weights_cannot_be_written(lab: Lab) -> None:
    weight = lab.weight("output_norm.weight")
    with pytest.raises(InvalidOption, match="weight"):
        weight.write(np.zeros(256, np.float32))
    table = lab.weight("blk.0.F32.weight", rows=True)
    with lab.backend.new_context() as context:
        values = context.input().zeros(DType.F32, 1, 256)
        with pytest.raises(InvalidOption, match="weight"):
            table.set_rows(values, context.input().from_ints([0], 1))
        with pytest.raises(InvalidOption, match="weight"):
            values.copy(weight)


def test_weights_can_be_read(lab: Lab) -> None:
    np.testing.assert_array_equal(lab.weight("output_norm.weight").floats(), lab.weights["norm"])
    table = lab.weight("blk.0.Q8_0.weight", rows=True)
    np.testing.assert_allclose(table.floats(), lab.weights["Q8_0"], rtol=1e-6)


def test_interrupting(lab: Lab) -> None:
    with lab.backend.new_context() as context:
        result = lab.input(context, np.zeros(4, np.float32)).exp()
        context.forward(result)
        thread = Thread(target=lab.backend.interrupt)
        thread.start()
        thread.join()
        with pytest.raises(Interrupted):
            context.compute(result)
        lab.backend.resume()
        context.compute(result)
        assert result.floats().tolist() == [1, 1, 1, 1]


def test_cache_config(lab: Lab) -> None:
    config = lab.backend.cache_config()
    assert config.cache_padding >= 1
    assert config.mask_batch_padding >= 1
    assert config.mask_dtype in (DType.F32, DType.F16)


@BACKENDS
def test_closing_twice(name: str, model: Model) -> None:
    backend = new_backend(model[0], name=name)
    backend.get("output_norm.weight")
    backend.load()
    backend.close()
    backend.close()
