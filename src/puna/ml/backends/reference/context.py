"""Contexts of the reference backend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import numpy as np

from puna.errors import InvalidOption
from puna.ml import rules
from puna.ml.array import Array
from puna.ml.backends.reference import elements
from puna.ml.backends.reference.graph import Graph, Memory
from puna.ml.backends.reference.tensor import ReferenceTensor, own
from puna.ml.context import Context
from puna.ml.dtype import DType
from puna.ml.memory import Memory as Booked
from puna.ml.memory import StorageKind
from puna.ml.tensor import Tensor

_INPUT = -1


class ReferenceContext(Context):
    """A graph, and what `empty` makes: nothing yet, inputs, or a layer's storage."""

    def __init__(self, graph: Graph, place: int | None = None, *, kind: StorageKind = "cache") -> None:
        self.graph = graph
        self._place = place
        self._kind = kind

    def input(self) -> ReferenceContext:
        return ReferenceContext(self.graph, _INPUT)

    def layer(self, index: int) -> ReferenceContext:
        if index < 0:
            raise InvalidOption(f"there is no layer {index}")
        return ReferenceContext(self.graph, index)

    def weights(self, index: int) -> ReferenceContext:
        context = self.layer(index)
        context._kind = "weights"
        return context

    def empty(self, dtype: DType, *shape: int) -> ReferenceTensor:
        # Memory that was not cleared could hold anything; make sure that it does.
        return self._made(dtype, shape, fill=0xFF)

    def zeros(self, dtype: DType, *shape: int) -> ReferenceTensor:
        return self._made(dtype, shape, fill=0)

    def _made(self, dtype: DType, shape: tuple[int, ...], fill: int) -> ReferenceTensor:
        if self._place is None:
            raise InvalidOption("set input(), layer(i) or weights(i) before creating tensors")
        type_ = elements.file_type(dtype)
        shape = rules.valid_shape(shape)
        rules.whole_blocks(type_, shape)
        memory = Memory(type_.nbytes(shape))
        booking = self.graph.booking
        is_input = self._place == _INPUT
        entry = booking.report.cpu.graph if is_input else self._booked(self._place, memory.nbytes)
        if booking.allocating:
            try:
                memory.data = np.full(memory.nbytes, fill, np.uint8)
            except MemoryError as error:
                raise booking.refused(entry) from error
        self.graph.owned.append(memory)
        return ReferenceTensor(type_, shape, memory, graph=self.graph if is_input else None)

    def _booked(self, layer: int, nbytes: int) -> Booked:
        booking = self.graph.booking
        if self._kind == "cache":
            return booking.book_storage(layer, nbytes, "cache")
        before = booking.report.cpu.weights[min(layer, booking.blocks)].status
        entry = booking.book_storage(layer, nbytes, "weights")
        self.graph.closing.append(lambda: entry.take(nbytes, before))
        return entry

    def from_floats(self, values: Sequence[float] | Array, *shape: int) -> ReferenceTensor:
        return self._filled(np.asarray(values, np.float32), DType.F32, shape)

    def from_ints(self, values: Sequence[int] | Array, *shape: int) -> ReferenceTensor:
        return self._filled(np.asarray(values, np.int32), DType.I32, shape)

    def _filled(self, values: Array, dtype: DType, shape: tuple[int, ...]) -> ReferenceTensor:
        if values.size != math.prod(shape):
            raise InvalidOption(f"{values.size} values do not fill a tensor of shape {shape}")
        tensor = self.empty(dtype, *shape)
        if self.graph.booking.allocating:
            tensor.write(values)
        return tensor

    def arange(self, start: float, stop: float, step: float, dtype: DType) -> ReferenceTensor:
        values = np.arange(start, stop, step)
        if dtype is DType.F32:
            return self.input().from_floats(values, values.size)
        if dtype is DType.I32:
            return self.input().from_ints(values, values.size)
        raise InvalidOption(f"arange makes F32 or I32, not {dtype.name}")

    def forward(self, *tensors: Tensor) -> Self:
        for tensor in tensors:
            if (step := own(tensor).step) is not None:
                self.graph.add(step)
        return self

    def compute(self, *tensors: Tensor) -> None:
        self.graph.run({step for tensor in tensors if (step := own(tensor).step) is not None})

    def reserve(self) -> None:
        self.graph.reserve()

    def max_graph_nodes(self) -> int:
        return self.graph.limit

    def close(self) -> None:
        self.graph.close()
