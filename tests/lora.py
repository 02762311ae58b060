"""LoRA adapters with random matrices for models in GGUF files, and such models with adapters merged in."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puna.gguf import GGMLType, GGUFFile, GGUFWriter

Array = NDArray[np.float32]
Matrices = dict[str, Array]

RANK, ALPHA = 4, 6.0
KEYS: dict[str, Any] = {
    "general.type": "adapter",
    "adapter.type": "lora",
    "adapter.lora.alpha": ALPHA,
}


def tensors(path: Path) -> Matrices:
    """The F32 tensors of a file."""
    with GGUFFile.open(path) as file:
        return {
            name: np.frombuffer(file.tensor_bytes(name), np.float32).reshape(info.shape).copy()
            for name, info in file.tensors.items()
            if info.type == GGMLType.F32
        }


def pairs(base: Path, names: Iterable[str] = (), *, rank: int = RANK, seed: int = 0) -> Matrices:
    """Random A and B for tensors of a model; for all matrices within its layers, if none is named."""
    random = np.random.default_rng(seed)
    weights = tensors(base)
    found = {}
    for name in names or [n for n, w in weights.items() if n.startswith("blk.") and w.ndim > 1]:
        *stack, rows, columns = weights[name].shape
        shapes = (*stack, rank, columns), (*stack, rows, rank)
        if name == "token_embd.weight":
            shapes = (rows, rank), (columns, rank)
        for half, shape in zip("ab", shapes, strict=True):
            width = columns if half == "a" else rank
            found[f"{name}.lora_{half}"] = (random.standard_normal(shape) / width**0.5).astype(np.float32)
    return found


def write(
    path: Path,
    matrices: Mapping[str, Array],
    keys: Mapping[str, Any] = KEYS,
    *,
    architecture: str = "llama",
    type_: GGMLType = GGMLType.F32,
) -> Path:
    """Writes an adapter, as F32 or F16."""
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", architecture)
        for key, value in keys.items():
            writer.add(key, value)
        for name, matrix in matrices.items():
            stored = matrix.astype(np.float16) if type_ == GGMLType.F16 else matrix
            writer.add_tensor(name, type_, matrix.shape, np.ascontiguousarray(stored).tobytes())
    return path


def write_adapter(path: Path, base: Path, names: Iterable[str] = (), **options: Any) -> Path:
    """Writes an adapter for a model; `options` are those of `pairs`."""
    with GGUFFile.open(base) as file:
        architecture = file.metadata.architecture
    return write(path, pairs(base, names, **options), architecture=architecture)


def write_merged(path: Path, base: Path, adapters: Sequence[tuple[Path, float]]) -> Path:
    """Writes the model with W + scale · alpha / rank · B A in place of each W, in F32 all of it."""
    weights = tensors(base)
    for adapter, scale in adapters:
        halves = tensors(adapter)
        with GGUFFile.open(adapter) as file:
            alpha = file.metadata["adapter.lora.alpha"]
        assert isinstance(alpha, float)
        for name in sorted({half[: -len(".lora_a")] for half in halves}):
            first, second = halves[f"{name}.lora_a"], halves[f"{name}.lora_b"]
            product = first @ second.T if name == "token_embd.weight" else second @ first
            weights[name] += np.float32(scale * alpha / second.shape[-1]) * product
    content = base.read_bytes()
    with GGUFFile.open(base) as file, GGUFWriter(path) as writer:
        for key in file.metadata:
            writer.add(key, file.metadata[key], file.metadata.entry(key).element)
        for name, info in file.tensors.items():
            stored = content[info.offset : info.offset + info.nbytes]
            changed = weights[name].tobytes() if name in weights else stored
            writer.add_tensor(name, info.type, info.shape, changed)
    return path
