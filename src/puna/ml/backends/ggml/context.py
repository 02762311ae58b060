"""Contexts of the ggml backend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self, cast

import numpy as np

from puna.errors import BackendError, InvalidOption
from puna.ggml import access
from puna.gguf import GGMLType
from puna.ml import rules
from puna.ml.array import Array
from puna.ml.backends.ggml.executor import OutOfMemory
from puna.ml.backends.ggml.graph import Graph
from puna.ml.backends.ggml.tensor import GGMLTensor, extents, type_id
from puna.ml.context import Context
from puna.ml.dtype import DType
from puna.ml.memory import StorageKind
from puna.ml.tensor import Tensor

if TYPE_CHECKING:
    from puna.ml.backends.ggml.backend import GGMLBackend

_INPUT = -1


class GGMLContext(Context):
    """A graph, and where `empty` puts tensors: nowhere yet, among the inputs, or on a layer's device."""

    def __init__(
        self, backend: GGMLBackend, graph: Graph, place: int | None = None, *, kind: StorageKind = "cache"
    ) -> None:
        self.backend = backend
        self.graph = graph
        self._place = place
        self._kind = kind

    def input(self) -> GGMLContext:
        return GGMLContext(self.backend, self.graph, _INPUT)

    def layer(self, index: int) -> GGMLContext:
        return GGMLContext(self.backend, self.graph, index)

    def weights(self, index: int) -> GGMLContext:
        return GGMLContext(self.backend, self.graph, index, kind="weights")

    def empty(self, dtype: DType, *shape: int) -> GGMLTensor:
        if self._place is None:
            raise InvalidOption("set input(), layer(i) or weights(i) before creating tensors")
        shape = rules.valid_shape(shape)
        rules.whole_blocks(GGMLType(type_id(dtype)), shape)
        library, graph = self.backend.library, self.graph
        graph.require_room()
        sizes = extents(shape)
        handle = library.ggml_new_tensor(graph.handle, type_id(dtype), len(shape), sizes)
        tensor = GGMLTensor(library, handle, shape, dtype, graph if self._place == _INPUT else None)
        if self._place == _INPUT:
            library.ggml_set_input(handle)
            graph.adopt(handle, self.backend.allocate_input(handle))
        else:
            self.backend.allocate_storage(graph, handle, self._place, self._kind)
        return tensor

    def zeros(self, dtype: DType, *shape: int) -> GGMLTensor:
        tensor = self.empty(dtype, *shape)
        if self._place == _INPUT and self.backend.params.alloc_memory:
            self.backend.library.ggml_backend_buffer_clear(access.buffer(tensor.handle), 0)
        return tensor

    def from_floats(self, values: Sequence[float] | Array, *shape: int) -> GGMLTensor:
        return self._filled(np.asarray(values, np.float32), DType.F32, shape)

    def from_ints(self, values: Sequence[int] | Array, *shape: int) -> GGMLTensor:
        return self._filled(np.asarray(values, np.int32), DType.I32, shape)

    def _filled(self, values: Array, dtype: DType, shape: tuple[int, ...]) -> GGMLTensor:
        if values.size != math.prod(shape):
            raise InvalidOption(f"{values.size} values do not fill a tensor of shape {shape}")
        tensor = self.empty(dtype, *shape)
        if self.backend.params.alloc_memory:
            tensor.write(values)
        return tensor

    def arange(self, start: float, stop: float, step: float, dtype: DType) -> GGMLTensor:
        values = np.arange(start, stop, step)
        if dtype is DType.F32:
            return self.input().from_floats(values, values.size)
        if dtype is DType.I32:
            return self.input().from_ints(values, values.size)
        raise InvalidOption(f"arange makes F32 or I32, not {dtype.name}")

    def forward(self, *tensors: Tensor) -> Self:
        self.graph.expand(cast(GGMLTensor, tensor).handle for tensor in tensors)
        return self

    def compute(self, *tensors: Tensor) -> None:
        if not self.backend.params.alloc_memory:
            raise BackendError("the backend only plans memory: nothing can be computed")
        try:
            self.graph.compute(cast(GGMLTensor, tensor).handle for tensor in tensors)
        except OutOfMemory as error:
            raise self.backend.no_room(error) from error

    def reserve(self) -> None:
        self.backend.reserve(self.graph)

    def max_graph_nodes(self) -> int:
        return self.graph.nodes

    def close(self) -> None:
        self.graph.close()
