"""Weights in types without a fast kernel hold the same values after they were changed for one."""

import numpy as np
import pytest

import gguf
import puna.ggml
from puna.gguf import GGMLType, TensorInfo
from puna.ml.backends.ggml import transcode

ROWS, WIDTH = 6, 96


@pytest.mark.parametrize(("name", "error"), [("Q4_1", 2e-3), ("Q5_0", 0.0), ("Q5_1", 2e-2)])
def test_a_changed_weight_holds_the_same_values(name: str, error: float) -> None:
    values = np.random.default_rng(3).standard_normal((ROWS, WIDTH)).astype(np.float32) + 0.3
    content = gguf.quants.quantize(values, gguf.GGMLQuantizationType[name])
    expected = gguf.quants.dequantize(content, gguf.GGMLQuantizationType[name])
    change = transcode.CHANGES[GGMLType[name]]
    source = TensorInfo("w", GGMLType[name], (ROWS, WIDTH), 0, content.nbytes)
    raw = content.reshape(-1).view(np.uint8)
    library = puna.ggml.load()
    changed = change.convert(library, raw, source)
    assert changed.nbytes == change.type.nbytes((ROWS, WIDTH))
    found = gguf.quants.dequantize(changed.reshape(ROWS, -1), gguf.GGMLQuantizationType[change.type.name])
    if change.offsets is not None:
        offsets = change.offsets(library, raw, source).view(np.float16).astype(np.float32)
        found = found + np.repeat(offsets.reshape(ROWS, -1), transcode.BLOCK, axis=1)
    np.testing.assert_allclose(found, expected, atol=error)


@pytest.mark.parametrize("name", ["F32", "F16"])
def test_a_rounded_weight_is_the_nearest_in_bf16(name: str) -> None:
    dtype = {"F32": np.float32, "F16": np.float16}[name]
    values = np.random.default_rng(3).standard_normal((ROWS, WIDTH)).astype(dtype)
    source = TensorInfo("w", GGMLType[name], values.shape, 0, values.nbytes)
    change = transcode.ROUNDED[GGMLType[name]]
    changed = change.convert(puna.ggml.load(), values.reshape(-1).view(np.uint8), source)
    expected = gguf.quants.quantize(values.astype(np.float32), gguf.GGMLQuantizationType.BF16)
    assert changed.tobytes() == expected.tobytes()
