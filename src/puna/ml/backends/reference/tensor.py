"""Tensors of the reference backend: every operation in a few lines of NumPy.

Numbers are float64 inside an operation and are rounded once, to the result's type. An operation only
records a step; its graph runs it. A tensor is a window (offset, shape, strides) into memory, so views share
memory with what they look at, exactly as on a device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from puna.errors import BackendError, InvalidOption
from puna.gguf import GGMLType
from puna.ml import rules
from puna.ml.array import Array, Floats
from puna.ml.backends.reference import elements, functions, rope, windows
from puna.ml.backends.reference.graph import Graph, Memory, Step
from puna.ml.dtype import DType
from puna.ml.rope import RopeParameters
from puna.ml.tensor import Tensor

if TYPE_CHECKING:
    from puna.ml.context import Context

Pair = tuple[int, int]


class ReferenceTensor(Tensor):
    """A window into memory; see `Tensor` for the operations.

    Attributes:
        type: the element type by its name in files, which DType may not have.
        graph: the graph it belongs to, None for weights and storage.
        memory: where the elements lie.
        step: what fills the memory, None if that was done from outside.
        offset: bytes from the memory's start.
        strides: bytes per step along each axis; the last: per block.
    """

    __slots__ = ("graph", "memory", "offset", "step", "strides", "type")

    def __init__(
        self,
        type_: GGMLType,
        shape: Sequence[int],
        memory: Memory,
        *,
        graph: Graph | None = None,
        step: Step | None = None,
        offset: int = 0,
        strides: Sequence[int] | None = None,
    ) -> None:
        self.type = type_
        self.dtype = elements.dtype_of(type_)
        self.shape = tuple(shape)
        self.graph = graph
        self.memory = memory
        self.step = step
        self.offset = offset
        self.strides = rules.dense_strides(type_, shape) if strides is None else tuple(strides)

    # -- memory ---------------------------------------------------------------------------------------

    def live(self) -> Array:
        """The elements where they lie; block types have one opaque element per block."""
        last = self.shape[-1] // self.type.block_size
        kind = elements.array_type(self.type)
        content = self.memory.content()
        return np.ndarray((*self.shape[:-1], last), kind, content.data, self.offset, self.strides)

    def numbers(self) -> Array:
        """The elements as float64, or as integers if that is what they are."""
        return elements.numbers(self.live(), self.type)

    def _is_contiguous(self) -> bool:
        expected = rules.dense_strides(self.type, self.shape)
        axes = zip(self.shape, self.strides, expected, strict=True)
        return all(size == 1 or stride == dense for size, stride, dense in axes)

    def _window(
        self, graph: Graph, shape: Sequence[int], strides: Sequence[int] | None = None, offset: int = 0
    ) -> ReferenceTensor:
        start = self.offset + offset
        return ReferenceTensor(
            self.type, shape, self.memory, graph=graph, step=self.step, offset=start, strides=strides
        )

    def stride(self, axis: int) -> int:
        return self.strides[axis]

    def on(self, context: Context) -> ReferenceTensor:
        # Only contexts know their graph, and contexts know tensors.
        from puna.ml.backends.reference.context import ReferenceContext

        if not isinstance(context, ReferenceContext):
            raise InvalidOption("the context belongs to another backend")
        return self._window(context.graph, self.shape, self.strides)

    def readable(self) -> bool:
        if self.memory.data is None:
            return False
        if self.step is None or self.graph is None:
            return True
        return self.graph.booking.latest is self.graph and self.step in self.graph.results

    def _require_readable(self) -> None:
        if not self.readable():
            raise BackendError("the tensor has no content to read: compute it first")

    def tobytes(self) -> bytes:
        self._require_readable()
        return self.live().tobytes()

    def floats(self) -> Floats:
        self._require_readable()
        return self.numbers().astype(np.float32)

    def array(self) -> Array:
        self._require_readable()
        if self.dtype not in elements.NUMPY:
            raise BackendError(f"NumPy has no element type {self.type.name}; use floats()")
        return self.live()

    def write(self, values: Array) -> None:
        if self.memory.fixed:
            raise InvalidOption("a weight cannot be written")
        target = self.live()
        if self.dtype in elements.NUMPY:
            values = np.ascontiguousarray(values, target.dtype)
        if values.nbytes != target.nbytes:
            raise InvalidOption(f"{values.nbytes} bytes do not fill a tensor of {target.nbytes} bytes")
        target[...] = np.ascontiguousarray(values).view(np.uint8).view(target.dtype).reshape(target.shape)

    # -- recording ------------------------------------------------------------------------------------

    def _step(
        self, compute: Callable[[], Array], type_: GGMLType, shape: Sequence[int], *operands: ReferenceTensor
    ) -> ReferenceTensor:
        """A result in memory of its own; `compute` gives its elements as they are stored."""
        rules.whole_blocks(type_, shape)
        memory = Memory(type_.nbytes(shape))

        def run() -> None:
            # A copy always: what an operand's memory holds may change, what an operation gave must not.
            memory.data = np.array(compute(), order="C").reshape(-1).view(np.uint8)

        mine = (self, *operands)
        step = Step(run, _steps(mine), memory.nbytes)
        return ReferenceTensor(type_, shape, memory, graph=_graph(mine), step=step)

    def _record(
        self,
        function: Callable[..., Array],
        *operands: Tensor,
        shape: Sequence[int] | None = None,
        dtype: DType | None = None,
    ) -> ReferenceTensor:
        """A result whose numbers are `function` of this tensor's and the operands'."""
        others = [own(operand) for operand in operands]
        type_ = self.type if dtype is None else elements.file_type(dtype)

        def compute() -> Array:
            return elements.stored(function(*(tensor.numbers() for tensor in (self, *others))), type_)

        return self._step(compute, type_, self.shape if shape is None else shape, *others)

    def _arrange(
        self, function: Callable[..., Array], *operands: Tensor, shape: Sequence[int]
    ) -> ReferenceTensor:
        """A result that has the very elements of this tensor and the operands, elsewhere."""
        others = [own(operand) for operand in operands]

        def compute() -> Array:
            return function(*(tensor.live() for tensor in (self, *others)))

        return self._step(compute, self.type, shape, *others)

    def _map(self, function: Callable[[Array], Array]) -> ReferenceTensor:
        rules.elements("an operation on elements", self)
        return self._record(function)

    def _combine(self, function: Callable[[Array, Array], Array], other: Tensor) -> ReferenceTensor:
        rules.arithmetic("arithmetic", self, other)
        return self._record(lambda x, y: function(x, functions.repeated(y, x.shape)), other)

    def _write_into(
        self, target: ReferenceTensor, run: Callable[[], None], *operands: Tensor
    ) -> ReferenceTensor:
        """A step with an effect on `target`; the result stands for it."""
        if target.memory.fixed:
            raise InvalidOption("a weight cannot be written")
        mine = [self, target, *map(own, operands)]
        step = Step(run, _steps(mine), 0)
        return ReferenceTensor(
            target.type,
            target.shape,
            target.memory,
            graph=_graph(mine),
            step=step,
            offset=target.offset,
            strides=target.strides,
        )

    # -- element by element ---------------------------------------------------------------------------

    def neg(self) -> ReferenceTensor:
        return self._map(np.negative)

    def exp(self) -> ReferenceTensor:
        return self._map(np.exp)

    def sin(self) -> ReferenceTensor:
        return self._map(np.sin)

    def cos(self) -> ReferenceTensor:
        return self._map(np.cos)

    def sqr(self) -> ReferenceTensor:
        return self._map(np.square)

    def sqrt(self) -> ReferenceTensor:
        return self._map(np.sqrt)

    def tanh(self) -> ReferenceTensor:
        return self._map(np.tanh)

    def sigmoid(self) -> ReferenceTensor:
        return self._map(functions.sigmoid)

    def softplus(self) -> ReferenceTensor:
        return self._map(lambda x: np.logaddexp(0, x))

    def relu(self) -> ReferenceTensor:
        return self._map(lambda x: np.maximum(x, 0))

    def gelu(self) -> ReferenceTensor:
        return self._map(functions.gelu)

    def gelu_erf(self) -> ReferenceTensor:
        return self._map(functions.gelu_erf)

    def scale(self, factor: float, bias: float = 0.0) -> ReferenceTensor:
        return self._map(lambda x: x * factor + bias)

    def clamp(self, minimum: float, maximum: float) -> ReferenceTensor:
        return self._map(lambda x: np.clip(x, minimum, maximum))

    def add(self, other: Tensor) -> ReferenceTensor:
        return self._combine(np.add, other)

    def sub(self, other: Tensor) -> ReferenceTensor:
        return self._combine(np.subtract, other)

    def mul(self, other: Tensor) -> ReferenceTensor:
        return self._combine(np.multiply, other)

    def div(self, other: Tensor) -> ReferenceTensor:
        return self._combine(np.divide, other)

    # -- matrices -------------------------------------------------------------------------------------

    def mul_mat(self, other: Tensor) -> ReferenceTensor:
        shape = rules.mul_mat(self, other)
        return self._record(functions.mul_mat, other, shape=shape, dtype=DType.F32)

    def mul_mat_full_prec(self, other: Tensor) -> ReferenceTensor:
        return self.mul_mat(other)

    def mul_mat_id(self, other: Tensor, ids: Tensor) -> ReferenceTensor:
        shape = rules.mul_mat_id(self, other, ids)
        return self._record(functions.mul_mat_id, other, ids, shape=shape, dtype=DType.F32)

    # -- along the last axis --------------------------------------------------------------------------

    def softmax(
        self, mask: Tensor | None = None, scale: float = 1.0, sinks: Tensor | None = None
    ) -> ReferenceTensor:
        given = [tensor for tensor in (mask, sinks) if tensor is not None]
        rules.softmax(self, mask, sinks)

        def function(scores: Array, *others: Array) -> Array:
            rest = list(others)
            added = rest.pop(0) if mask is not None else None
            return functions.softmax(scores * scale, added, rest.pop(0) if sinks is not None else None)

        return self._record(function, *given)

    def norm(self, eps: float) -> ReferenceTensor:
        return self._map(lambda x: functions.norm(x, eps))

    def sum_rows(self) -> ReferenceTensor:
        rules.elements("sum_rows", self)
        return self._record(functions.total, shape=(*self.shape[:-1], 1))

    def mean(self) -> ReferenceTensor:
        rules.elements("mean", self)
        return self._record(functions.mean, shape=(*self.shape[:-1], 1))

    def argsort(self) -> ReferenceTensor:
        rules.elements("argsort", self)
        return self._record(functions.argsort, dtype=DType.I32)

    def top_k(self, k: int) -> ReferenceTensor:
        shape = rules.top_k(self, k)
        return self._record(lambda x: functions.argsort(-x)[..., :k], shape=shape, dtype=DType.I32)

    # -- shape ----------------------------------------------------------------------------------------

    def reshape(self, *shape: int) -> ReferenceTensor:
        shape = rules.reshape(self.shape, shape)
        rules.whole_blocks(self.type, shape)
        return self._window(_graph([self]), shape) if self._is_contiguous() else self.contiguous(*shape)

    def view(self, offset: int, shape: Sequence[int], strides: Sequence[int] = ()) -> ReferenceTensor:
        room = rules.extent(self.type, self.shape, self.strides)
        every = rules.view(self.type, room, offset, shape, strides)
        return self._window(_graph([self]), shape, every, offset)

    def permute(self, *axes: int) -> ReferenceTensor:
        shape = rules.permute(self, axes)
        return self._window(_graph([self]), shape, [self.strides[axis] for axis in axes])

    def contiguous(self, *shape: int) -> ReferenceTensor:
        return self._arrange(lambda x: x, shape=rules.reshape(self.shape, shape or self.shape))

    def pad(self, *counts: int) -> ReferenceTensor:
        shape = rules.pad(self, counts)
        return self._record(lambda x: np.pad(x, [(0, count) for count in counts]), shape=shape)

    def repeat(self, axis: int, n: int) -> ReferenceTensor:
        shape = rules.repeat(self, axis, n)
        counts = [after // before for after, before in zip(shape, self.shape, strict=True)]
        return self._arrange(lambda x: np.tile(x, counts), shape=shape)

    def concat(self, other: Tensor, axis: int) -> ReferenceTensor:
        shape = rules.concat(self, other, axis)
        return self._arrange(lambda x, y: np.concatenate([x, y], axis), other, shape=shape)

    def rows(self, ids: Tensor) -> ReferenceTensor:
        shape = rules.rows(self, ids)
        type_ = GGMLType.I32 if self.type is GGMLType.I32 else GGMLType.F32
        places = own(ids)

        def compute() -> Array:
            chosen = functions.rows(self.live(), places.live())
            return elements.stored(elements.numbers(chosen, self.type), type_)

        return self._step(compute, type_, shape, places)

    def set_rows(self, values: Tensor, ids: Tensor) -> ReferenceTensor:
        rules.set_rows(self, values, ids)
        source, places = own(values), own(ids)

        def run() -> None:
            target = self.live()
            chosen = functions.checked(places.live(), len(target))
            target[chosen] = elements.stored(source.numbers(), self.type)

        return self._write_into(self, run, values, ids)

    def set(self, other: Tensor, offset: int, *strides: int) -> ReferenceTensor:
        rules.set_region(self, other, strides)
        result, source = self.duplicate(), own(other)
        region = result.view(offset, other.shape, strides)

        def run() -> None:
            region.live()[...] = source.live()

        return result._write_into(result, run, other)

    def copy(self, target: Tensor) -> ReferenceTensor:
        rules.copy(self, target)
        storage = own(target)

        def run() -> None:
            values = functions.converted(self.numbers(), storage.type in elements.INTEGERS)
            storage.live()[...] = elements.stored(values.reshape(storage.shape), storage.type)

        return self._write_into(storage, run)

    def duplicate(self) -> ReferenceTensor:
        return self.contiguous()

    def cast(self, dtype: DType) -> ReferenceTensor:
        rules.converts(self, dtype)
        to_integers = elements.file_type(dtype) in elements.INTEGERS
        return self._record(lambda x: functions.converted(x, to_integers), dtype=dtype)

    # -- states ---------------------------------------------------------------------------------------

    def ssm_conv(self, kernel: Tensor) -> ReferenceTensor:
        return self._record(functions.ssm_conv, kernel, shape=rules.ssm_conv(self, kernel))

    def _gated_delta_net(
        self, key: Tensor, value: Tensor, decay: Tensor, rate: Tensor, state: Tensor
    ) -> ReferenceTensor:
        sequences, tokens, heads, size = value.shape
        shape = (sequences * (tokens + size), heads * size)
        return self._record(functions.gated_delta_net, key, value, decay, rate, state, shape=shape)

    # -- images ---------------------------------------------------------------------------------------

    def avg_pool_2d(self, kernel: int, stride: int, padding: float) -> ReferenceTensor:
        shape = rules.pool(self, kernel, stride, padding)
        size = shape[-2], shape[-1]
        return self._record(lambda x: windows.averages(x, size, kernel, stride, int(padding)), shape=shape)

    def conv_2d(self, images: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> ReferenceTensor:
        size = rules.patches(self, images, stride, padding, dilation)
        shape = (images.shape[0], self.shape[0], *size)

        def function(kernel: Array, pixels: Array) -> Array:
            return functions.convolve(kernel, pixels, stride, padding, dilation)

        return self._record(function, images, shape=shape, dtype=DType.F32)

    def im2col(self, images: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> ReferenceTensor:
        size = rules.patches(self, images, stride, padding, dilation)
        shape = (images.shape[0], *size, math.prod(self.shape[1:]))

        def function(pixels: Array) -> Array:
            return functions.columns(self.shape, pixels, stride, padding, dilation)

        # The kernel gives only its shape: the step must not wait for its content.
        return own(images)._on_graph_of(self)._record(function, shape=shape, dtype=DType.F32)

    def _on_graph_of(self, other: ReferenceTensor) -> ReferenceTensor:
        graph = _graph([self, other])
        return self._window(graph, self.shape, self.strides)

    # -- attention ------------------------------------------------------------------------------------

    def rope(
        self, positions: Tensor, parameters: RopeParameters, factors: Tensor | None = None
    ) -> ReferenceTensor:
        rules.rope(self, positions, parameters, factors)

        def function(heads: Array, places: Array, *divisors: Array) -> Array:
            return rope.rotate(heads, places, parameters, divisors[0] if divisors else None)

        return self._record(function, positions, *([] if factors is None else [factors]))


def own(tensor: Tensor) -> ReferenceTensor:
    """`tensor` as one of this backend's. Raises InvalidOption if it is not."""
    if not isinstance(tensor, ReferenceTensor):
        raise InvalidOption("the operands belong to different backends")
    return tensor


def _steps(tensors: Sequence[ReferenceTensor]) -> tuple[Step, ...]:
    return tuple(tensor.step for tensor in tensors if tensor.step is not None)


def _graph(tensors: Sequence[ReferenceTensor]) -> Graph:
    graphs = {id(tensor.graph): tensor.graph for tensor in tensors if tensor.graph is not None}
    if len(graphs) > 1:
        raise InvalidOption("the operands belong to different contexts")
    for graph in graphs.values():
        return graph
    raise InvalidOption("none of the operands belongs to a context; use Tensor.on")
