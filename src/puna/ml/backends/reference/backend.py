"""The reference backend: a model file's weights in system memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from puna.errors import InvalidOption, PunaError, UnsupportedModel
from puna.gguf import GGUFFile, Metadata, TensorInfo
from puna.ml.array import Array
from puna.ml.backend import Backend, BackendParams
from puna.ml.backends.reference import elements
from puna.ml.backends.reference.booking import Booking
from puna.ml.backends.reference.context import ReferenceContext
from puna.ml.backends.reference.graph import Graph, Memory
from puna.ml.backends.reference.tensor import ReferenceTensor
from puna.ml.memory import BackendMemory

_MIN_NODES = 1024
_NODES_PER_TENSOR = 32


def open_backend(path: Path, params: BackendParams) -> Backend:
    """Opens a model file; see `puna.ml.new_backend`."""
    file = GGUFFile.open(path)
    try:
        return ReferenceBackend(file, params)
    except PunaError:
        file.close()
        raise


@dataclass(frozen=True, slots=True)
class _Weight:
    """Tensors of the file whose rows are one weight, the memory they are read into, and its first role."""

    sources: tuple[TensorInfo, ...]
    memory: Memory
    is_table: bool


class ReferenceBackend(Backend):
    """Weights of one file, as they are in it; see `Backend`."""

    def __init__(self, file: GGUFFile, params: BackendParams) -> None:
        self._file = file
        self._params = params
        self._booking = Booking(file.metadata.uint("block_count", 0), params.alloc_memory)
        self._weights: dict[tuple[str, ...], _Weight] = {}
        self._limit = max(_MIN_NODES, _NODES_PER_TENSOR * len(file.tensors))
        self._allocated = False

    def allocate(self) -> None:
        if self._allocated:
            return
        self._allocated = True
        for names, weight in self._weights.items():
            self._booking.book_weight(names[0], weight.memory.nbytes, rows=weight.is_table)

    def load(self, progress: Callable[[float], None] = lambda done: None) -> None:
        self.allocate()
        if not self._params.alloc_memory:
            return
        total = sum(weight.memory.nbytes for weight in self._weights.values())
        done = 0
        progress(0.0)
        for weight in self._weights.values():
            weight.memory.data = np.concatenate([self._content(source) for source in weight.sources])
            done += weight.memory.nbytes
            progress(done / total)
        if not self._weights:
            progress(1.0)

    def _content(self, source: TensorInfo) -> Array:
        """The bytes of a tensor, in the order this machine computes with."""
        content = np.frombuffer(self._file.tensor_bytes(source.name), np.uint8)
        if self._file.byte_order == "<":
            return content
        if source.type.is_quantized:
            raise UnsupportedModel(f"tensor {source.name!r}: big-endian files of type {source.type.name}")
        return content.view(elements.array_type(source.type)).byteswap().view(np.uint8)

    def backend_memory(self) -> BackendMemory:
        return self._booking.copy()

    def forget_caches(self) -> None:
        self._booking.report.forget_caches()

    def config(self) -> Metadata:
        return self._file.metadata

    def names(self) -> Iterable[str]:
        return self._file.tensors.keys()

    def allow_rounding(self) -> None:
        """Everything stays F32."""

    def get(self, name: str, *, rows: bool = False) -> ReferenceTensor | None:
        return self._weight((name,), rows) if name in self._file.tensors else None

    def get_concatenated(self, names: Sequence[str]) -> ReferenceTensor | None:
        if not self._params.fuse or not names or not all(name in self._file.tensors for name in names):
            return None
        sources = [self._file.tensors[name] for name in names]
        if len({(source.type, source.shape[1:]) for source in sources}) > 1:
            return None
        return self._weight(tuple(names), rows=False)

    def _weight(self, names: tuple[str, ...], rows: bool) -> ReferenceTensor | None:
        if names not in self._weights:
            if self._allocated:
                return None
            sources = tuple(self._file.tensors[name] for name in names)
            size = sum(source.nbytes for source in sources)
            self._weights[names] = _Weight(sources, Memory(size, fixed=True), rows)
        weight = self._weights[names]
        first = weight.sources[0]
        length = sum(source.shape[0] for source in weight.sources)
        return ReferenceTensor(first.type, (length, *first.shape[1:]), weight.memory)

    def new_context(self) -> ReferenceContext:
        return self.new_context_size(self._limit)

    def new_context_size(self, nodes: int) -> ReferenceContext:
        if not 1 <= nodes <= self._limit:
            raise InvalidOption(f"a graph has 1 to {self._limit} nodes, not {nodes}")
        return ReferenceContext(Graph(self._booking, nodes))

    def interrupt(self) -> None:
        self._booking.interrupted.set()

    def resume(self) -> None:
        self._booking.interrupted.clear()

    def close(self) -> None:
        for weight in self._weights.values():
            weight.memory.data = None
        self._file.close()
