"""Products of narrow weights with many vectors, which the ggml backend computes in F32, and rounded ones."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import gguf
from puna.gguf import GGMLType
from puna.gguf.writer import GGUFWriter
from puna.ml import BackendParams, DType, new_backend
from puna.ml.array import Array, Floats
from puna.ml.backends.ggml import weights
from puna.ml.backends.ggml.tensor import GGMLTensor
from puna.ml.backends.ggml.weights import Weights

ROWS, WIDTH = 48, 96


class Product(NamedTuple):
    """Of a weight: its type in memory, whether it widens, and what came of some vectors."""

    dtype: DType
    widens: bool
    values: Floats


@pytest.fixture(params=["GenuineIntel", "AuthenticAMD"])
def vendor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whose processor this is taken for."""
    monkeypatch.setattr(weights, "vendor", lambda: request.param)
    return str(request.param)


def _write(path: Path, kind: GGMLType, rows: int, width: int, content: Array) -> Path:
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", "llama")
        writer.add("llama.block_count", 1)
        writer.add_tensor("blk.0.w.weight", kind, (rows, width), content)
    return path


def _product(path: Path, vectors: Floats, *, transcode: bool | None = False, rounds: bool = False) -> Product:
    with new_backend(path, BackendParams(num_threads=1, transcode=transcode)) as backend:
        if rounds:
            backend.allow_rounding()
        weight = backend.get("blk.0.w.weight")
        assert isinstance(weight, GGMLTensor)
        backend.load()
        with backend.new_context() as context:
            inputs = context.input().empty(DType.F32, *vectors.shape)
            inputs.write(vectors)
            result = weight.mul_mat(inputs)
            context.forward(result).compute(result)
            return Product(weight.dtype, weight.widens, result.floats().copy())


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0", "Q5_0", "Q5_1", "Q4_1"])
@pytest.mark.parametrize("count", [1, 127, 128, 300])
def test_a_product_is_right_below_and_above_the_limit(
    tmp_path: Path, vendor: str, name: str, count: int
) -> None:
    random = np.random.default_rng(5)
    kind = gguf.GGMLQuantizationType[name]
    content = gguf.quants.quantize(random.standard_normal((ROWS, WIDTH)).astype(np.float32), kind)
    path = _write(tmp_path / "w.gguf", GGMLType[name], ROWS, WIDTH, content)
    matrix = gguf.quants.dequantize(content, kind).astype(np.float64)
    vectors = random.standard_normal((count, WIDTH)).astype(np.float32)
    expected = vectors @ matrix.T
    found = _product(path, vectors).values
    # As they are, quantised weights are multiplied with activations rounded to 8 bits.
    np.testing.assert_allclose(found, expected, atol=0.35, rtol=0.02)
    assert np.abs(found - expected).mean() < 0.08


def test_amd_processors_widen_only_what_has_no_kernel(
    tmp_path: Path, vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Weights, "_fast_f32", True)
    vectors = np.zeros((1, WIDTH), np.float32)
    widened = set()
    for name in ("F32", "F16", "BF16", "Q8_0", "Q5_0", "Q5_1", "Q4_1"):
        content = gguf.quants.quantize(np.ones((ROWS, WIDTH), np.float32), gguf.GGMLQuantizationType[name])
        path = _write(tmp_path / f"{name}.gguf", GGMLType[name], ROWS, WIDTH, content)
        widened |= {name} if _product(path, vectors).widens else set()
    both = {"Q5_1", "Q4_1"}
    assert widened == (both if vendor == "AuthenticAMD" else {*both, "F16", "BF16", "Q8_0", "Q5_0"})


@pytest.mark.parametrize("name", ["F32", "F16"])
def test_large_matrices_are_rounded_where_that_is_allowed_and_faster(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(6)
    matrix = random.standard_normal((256, 256)).astype({"F32": np.float32, "F16": np.float16}[name])
    vectors = random.standard_normal((130, 256)).astype(np.float32)
    exact = vectors @ matrix.astype(np.float32).T
    path = _write(tmp_path / "w.gguf", GGMLType[name], 256, 256, matrix)
    small = _write(tmp_path / "small.gguf", GGMLType[name], 255, 256, matrix[:255])

    monkeypatch.setattr(Weights, "_fast_bf16", True)
    rounded = _product(path, vectors, transcode=None, rounds=True)
    assert rounded.dtype is DType.BF16
    error = np.abs(rounded.values - exact)
    assert 1e-4 < error.mean() < 0.1
    assert error.max() < 0.5
    kept = [
        _product(path, vectors, transcode=None),
        _product(path, vectors, transcode=False, rounds=True),
        _product(small, vectors, transcode=None, rounds=True),
    ]
    monkeypatch.setattr(Weights, "_fast_bf16", False)
    kept.append(_product(path, vectors, transcode=None, rounds=True))
    assert [product.dtype for product in kept] == [DType[name]] * 4
