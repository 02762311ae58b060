"""A small model file, both backends opened on it, and a short way to run one expression."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import gguf
from puna.gguf import GGMLType, GGUFWriter
from puna.ml import Backend, BackendParams, Context, DType, Tensor, new_backend
from puna.ml.array import Array

ROWS, WIDTH = 24, 256
PLAIN_TYPES = ("F32", "F16", "BF16")
SIMPLE_BLOCK_TYPES = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4")
# Byte offsets of the float16 scales in a block of each type.
K_SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
WEIGHT_TYPES = (*PLAIN_TYPES, *SIMPLE_BLOCK_TYPES, *K_SCALES)

_DTYPES = {
    np.dtype(np.float32): DType.F32,
    np.dtype(np.float16): DType.F16,
    np.dtype(np.int32): DType.I32,
    np.dtype(np.int64): DType.I64,
}


@dataclass(frozen=True, slots=True)
class Lab:
    """A backend with its weights loaded.

    Attributes:
        name: the backend's.
        weights: the true values of the weights `<type>.weight`, float64.
    """

    name: str
    backend: Backend
    weights: dict[str, Array] = field(repr=False)

    @property
    def is_exact(self) -> bool:
        """Whether results are rounded once only, and weights are not rearranged or activations quantised."""
        return self.name == "reference"

    def input(self, context: Context, values: Array) -> Tensor:
        """An input of these values, of the type that they have."""
        tensor = context.input().empty(_DTYPES[values.dtype], *values.shape)
        tensor.write(values)
        return tensor

    def run(self, build: Callable[..., Tensor], *arrays: Array) -> Array:
        """What `build` makes of inputs with these values."""
        with self.backend.new_context_size(512) as context:
            result = build(*(self.input(context, values) for values in arrays))
            context.forward(result).compute(result)
            values = result.array().copy() if result.dtype in (DType.I32, DType.I64) else result.floats()
            assert values.shape == result.shape
            return values

    def weight(self, name: str, *, rows: bool = False) -> Tensor:
        """A weight that must be there."""
        weight = self.backend.get(name, rows=rows)
        assert weight is not None
        return weight

    def close_to(self, actual: Array, expected: Array, tolerance: float, exact: float = 2e-7) -> None:
        """Equal within `tolerance` of the expected value and of the largest one; the reference: `exact`."""
        allowed = exact if self.is_exact else tolerance
        top = float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
        np.testing.assert_allclose(actual, expected, rtol=allowed, atol=allowed * max(top, 1e-3))


def _random_blocks(type_: GGMLType, scales: tuple[int, ...], rng: np.random.Generator) -> Array:
    blocks = rng.integers(0, 256, (ROWS, WIDTH // 256, type_.type_size), dtype=np.uint8)
    for offset in scales:
        values = rng.uniform(0.001, 0.01, blocks.shape[:2]).astype(np.float16)
        blocks[..., offset : offset + 2] = values[..., None].view(np.uint8)
    return blocks.reshape(ROWS, -1)


def _weight_bytes(name: str, rng: np.random.Generator) -> Array:
    type_ = GGMLType[name]
    if name in K_SCALES:
        return _random_blocks(type_, K_SCALES[name], rng)
    values = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    return gguf.quants.quantize(values, gguf.GGMLQuantizationType[name]).view(np.uint8)


def write_model(path: Path) -> dict[str, Array]:
    """A file with a matrix of each type and vectors; returns the matrices' true values."""
    rng = np.random.default_rng(7)
    truth: dict[str, Array] = {}
    writer = GGUFWriter(path)
    writer.add("general.architecture", "tiny")
    writer.add("tiny.block_count", 2)
    for name in WEIGHT_TYPES:
        content = _weight_bytes(name, rng)
        truth[name] = gguf.quants.dequantize(content, gguf.GGMLQuantizationType[name]).astype(np.float64)
        writer.add_tensor(f"blk.0.{name}.weight", GGMLType[name], (ROWS, WIDTH), content.tobytes())
    for name in ("a", "b"):
        values = rng.standard_normal((ROWS // 2, WIDTH)).astype(np.float32)
        truth[name] = values.astype(np.float64)
        writer.add_tensor(f"blk.1.{name}.weight", GGMLType.F32, values.shape, values.tobytes())
    norm = rng.standard_normal(WIDTH).astype(np.float32)
    truth["norm"] = norm.astype(np.float64)
    writer.add_tensor("output_norm.weight", GGMLType.F32, norm.shape, norm.tobytes())
    writer.close()
    return truth


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Array]]:
    """A model file and the true values of its matrices."""
    path = tmp_path_factory.mktemp("ml") / "tiny.gguf"
    return path, write_model(path)


def _open(model: tuple[Path, dict[str, Array]], name: str, params: BackendParams) -> Iterator[Lab]:
    path, truth = model
    with new_backend(path, params, name=name) as backend:
        for weight in backend.names():
            backend.get(weight)
            backend.get(weight, rows=True)
        backend.load()
        yield Lab(name, backend, truth)


@pytest.fixture(scope="session", params=["reference", "ggml"])
def lab(request: pytest.FixtureRequest, model: tuple[Path, dict[str, Array]]) -> Iterator[Lab]:
    """Each backend in turn."""
    yield from _open(model, request.param, BackendParams(num_threads=1))


@pytest.fixture(scope="session", params=["reference", "ggml fused", "ggml unfused"])
def attention_lab(request: pytest.FixtureRequest, model: tuple[Path, dict[str, Array]]) -> Iterator[Lab]:
    """Each backend in turn, with and without its fused attention."""
    name, _, kind = request.param.partition(" ")
    yield from _open(model, name, BackendParams(num_threads=1, flash_attention=kind == "fused"))
