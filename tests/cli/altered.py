"""Copies of a model file with something wrong."""

from collections.abc import Mapping
from pathlib import Path

from puna.gguf import GGMLType, GGUFFile
from puna.gguf.writer import GGUFWriter

Value = str | int | float | list[str] | list[int] | list[float] | list[bool] | None
Shape = tuple[int, ...] | None


def altered(
    source: Path,
    target: Path,
    *,
    metadata: Mapping[str, Value] | None = None,
    tensors: Mapping[str, Shape] | None = None,
) -> Path:
    """Writes `source` with other metadata and tensors; None leaves a key or tensor out."""
    metadata, tensors = metadata or {}, tensors or {}
    with GGUFFile.open(source) as file, GGUFWriter(target) as writer:
        values: dict[str, Value] = {**file.metadata, **metadata}
        for key, value in values.items():
            if value is not None:
                writer.add(key, value)
        shapes: dict[str, Shape] = {name: info.shape for name, info in file.tensors.items()}
        shapes.update(tensors)
        for name, shape in shapes.items():
            if name in tensors and shape is not None:
                writer.add_tensor(name, GGMLType.F32, shape, bytes(GGMLType.F32.nbytes(shape)))
            elif shape is not None:
                info = file.tensors[name]
                writer.add_tensor(name, info.type, info.shape, bytes(file.tensor_bytes(name)))
    return target
