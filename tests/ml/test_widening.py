"""Products of narrow weights with many vectors, which the ggml backend computes in F32."""

from pathlib import Path

import numpy as np
import pytest

import gguf
from puna.gguf import GGMLType
from puna.gguf.writer import GGUFWriter
from puna.ml import BackendParams, DType, new_backend
from puna.ml.array import Floats

ROWS, WIDTH = 48, 96


def _product(path: Path, vectors: Floats) -> Floats:
    with new_backend(path, BackendParams(num_threads=1, transcode=False)) as backend:
        weight = backend.get("blk.0.w.weight")
        assert weight is not None
        backend.load()
        with backend.new_context() as context:
            inputs = context.input().empty(DType.F32, *vectors.shape)
            inputs.write(vectors)
            result = weight.mul_mat(inputs)
            context.forward(result).compute(result)
            return result.floats().copy()


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0", "Q5_0", "Q5_1", "Q4_1"])
@pytest.mark.parametrize("count", [1, 127, 128, 300])
def test_a_product_is_right_below_and_above_the_limit(tmp_path: Path, name: str, count: int) -> None:
    random = np.random.default_rng(5)
    kind = gguf.GGMLQuantizationType[name]
    content = gguf.quants.quantize(random.standard_normal((ROWS, WIDTH)).astype(np.float32), kind)
    with GGUFWriter(tmp_path / "w.gguf") as writer:
        writer.add("general.architecture", "llama")
        writer.add("llama.block_count", 1)
        writer.add_tensor("blk.0.w.weight", GGMLType[name], (ROWS, WIDTH), content)
    matrix = gguf.quants.dequantize(content, kind).astype(np.float64)
    vectors = random.standard_normal((count, WIDTH)).astype(np.float32)
    expected = vectors @ matrix.T
    found = _product(tmp_path / "w.gguf", vectors)
    # As they are, quantised weights are multiplied with activations rounded to 8 bits.
    np.testing.assert_allclose(found, expected, atol=0.35, rtol=0.02)
    assert np.abs(found - expected).mean() < 0.08
