"""Model files of a few random tensors, opened with the modules that use them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from puna.gguf import GGMLType, GGUFWriter
from puna.ml import Backend, BackendParams, Context, Tensor, new_backend
from puna.ml.nn import Module, bind

Floats = NDArray[np.float32]


def random(*shape: int, seed: int = 0) -> Floats:
    """Standard normal elements."""
    return np.random.default_rng((seed, *shape)).standard_normal(shape, np.float32)


def write(path: Path, tensors: Mapping[str, Floats]) -> Path:
    """Writes an F32 file."""
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", "none")
        writer.add("none.block_count", 1)
        for name, value in tensors.items():
            writer.add_tensor(name, GGMLType.F32, value.shape, value.tobytes())
    return path


@contextmanager
def bound(module: Module, path: Path, name: str, *, fuse: bool = True) -> Iterator[Backend]:
    """The module with its weights loaded."""
    with new_backend(path, BackendParams(num_threads=1, fuse=fuse), name=name) as backend:
        bind(module, backend)
        backend.load()
        yield backend


def compute(backend: Backend, build: Callable[[Context], Tensor]) -> Floats:
    """The result of one graph."""
    with backend.new_context() as context:
        result = build(context)
        context.forward(result).compute(result)
        return result.floats()
