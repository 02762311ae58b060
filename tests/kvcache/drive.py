"""Caches without a model: what the tokens of a batch see, and what keys and values they get."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puna.gguf import GGUFFile
from puna.kvcache import Cache
from puna.kvcache.cells import Cells
from puna.kvcache.composed import ComposedHistory
from puna.kvcache.history import CausalHistory
from puna.ml import Backend, BackendParams, CacheConfig, DType, Tensor
from puna.ml.backends.reference.backend import ReferenceBackend

MakeBackend = Callable[[CacheConfig], Backend]


class ConfiguredBackend(ReferenceBackend):
    """The reference backend with a CacheConfig of the test's choice."""

    def __init__(self, path: Path, config: CacheConfig) -> None:
        super().__init__(GGUFFile.open(path), BackendParams())
        self._wishes = config

    def cache_config(self) -> CacheConfig:
        return self._wishes


PLAIN = CacheConfig(cache_padding=4)


def ready(
    cache: Any,
    backend: Backend,
    *,
    dtype: DType = DType.F32,
    sequences: int = 1,
    capacity: int = 8,
    batch: int = 8,
) -> Any:
    """The cache, with room."""
    cache.init(backend, dtype, sequences, capacity, batch)
    return cache


def masks(cache: Cache, backend: Backend, shape: Any, tokens: int) -> list[NDArray[np.floating[Any]]]:
    """The masks that a new graph gets for the batch last started, one for each member."""
    with backend.new_context() as context:
        history = cache.trace(context, tokens, shape)
        cache.fill(history)
        parts = history.histories if isinstance(history, ComposedHistory) else (history,)
        return [part.mask.array().copy() for part in parts if isinstance(part, CausalHistory)]


def visible(
    cache: Any, backend: Backend, positions: Sequence[int], sequences: Sequence[int]
) -> list[list[int]]:
    """Starts a batch; for each of its tokens the positions it sees, sorted."""
    shape = cache.start(positions, sequences)
    (mask,) = masks(cache, backend, shape, len(positions))
    return [sorted(cache.cells.positions[np.flatnonzero(row == 0)].tolist()) for row in mask]


def books(cells: Cells) -> tuple[list[int], list[int], int, int]:
    """Everything the books say, for comparison; positions of free cells mean nothing."""
    held = np.where(cells.members == 0, 0, cells.positions)
    return held.tolist(), cells.members.tolist(), cells.used, cells.free


def step(
    cache: Cache,
    backend: Backend,
    positions: Sequence[int],
    sequences: Sequence[int],
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    layer: int = 0,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """One batch through one layer: keys and values (tokens, heads, size) in, what is seen and mask out."""
    shape = cache.start(positions, sequences)
    with backend.new_context() as context:
        history = cache.trace(context, len(positions), shape)
        inputs = context.input()
        key, value, mask = history.layer(layer).update(
            inputs.from_floats(keys, *keys.shape), inputs.from_floats(values, *values.shape)
        )
        results = [_readable(tensor) for tensor in (key, value)]
        context.forward(*results)
        cache.fill(history)
        context.compute(*results)
        return results[0].floats(), results[1].floats(), mask.floats()


def _readable(view: Tensor) -> Tensor:
    """A copy that is a result of the graph."""
    return view.cast(DType.F32) if view.dtype is not DType.F32 else view.contiguous(*view.shape)
