"""Tensors of the ggml backend: shape checks in Python, then one call per operation.

ggml counts axes from the contiguous one and always has four; `shape` here counts from the slowest. The
checks come first because the library ends the process when a shape does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from puna.errors import BackendError, InvalidOption
from puna.ggml import access
from puna.ggml.enums import BackendBufferUsage
from puna.gguf import GGMLType
from puna.ml import rules
from puna.ml.array import Array, Floats
from puna.ml.dtype import DType
from puna.ml.rope import RopeParameters
from puna.ml.tensor import Tensor

if TYPE_CHECKING:
    from puna.ggml import Library
    from puna.ml.backends.ggml.context import GGMLContext
    from puna.ml.backends.ggml.graph import Graph
    from puna.ml.context import Context

_NUMPY = {DType.F32: np.float32, DType.F16: np.float16, DType.I32: np.int32, DType.I64: np.int64}
_TYPE_IDS = {dtype: int(GGMLType[dtype.name]) for dtype in DType if dtype is not DType.OTHER}
_DTYPES = {type_id: dtype for dtype, type_id in _TYPE_IDS.items()}
_GELU_SCALE = 2.0 * math.sqrt(2.0 / math.pi)
_MANY_ROWS = 32
_MANY_VECTORS = 128
_PRECISION_F32 = 10
_SORT_ASCENDING = 0
_POOL_AVERAGE = 1
_MAX_AXES = 4

# The address of tensors whose memory is planned and never allocated.
PLANNED = 1


def type_id(dtype: DType) -> int:
    """ggml's number of an element type."""
    if dtype is DType.OTHER:
        raise InvalidOption("a tensor cannot be made of type OTHER")
    return _TYPE_IDS[dtype]


def dtype_of(type_number: int) -> DType:
    """The element type with ggml's number; OTHER for types that cannot be read back."""
    return _DTYPES.get(type_number, DType.OTHER)


def extents(shape: Sequence[int]) -> access.Int64s:
    """The four sizes of `shape` in ggml's order."""
    return access.int64s([*reversed(shape), 1, 1, 1, 1][:_MAX_AXES])


# Phi(x), the normal distribution, is nearly sigmoid(x p(x²)) with a polynomial p of these coefficients, the
# constant first: x Phi(x) is met within 1e-7. They are fitted for the largest error from 0 to 14; beyond, x²
# counts as the square of 14.
_LOGIT = (
    *(1.59576886, 7.26678396e-2, -6.58262059e-5, -1.10598248e-4),
    *(7.95386398e-6, -2.67866586e-7, 3.6337289e-9),
)
_LOGIT_END = 14.0**2


class GGMLTensor(Tensor):
    """A `ggml_tensor`; see `Tensor` for the operations.

    Attributes:
        handle: address of the `ggml_tensor`.
        offsets: of a matrix whose blocks have one more summand, those; see `transcode`.
        widens: whether a product with many vectors is faster after a conversion to F32; see `weights`.
        graph: the graph it belongs to, None for weights and storage.
        library: the compute library.
    """

    __slots__ = ("_view", "graph", "handle", "library", "offsets", "widens")

    def __init__(
        self, library: Library, handle: int, shape: Sequence[int], dtype: DType, graph: Graph | None
    ):
        if not handle:
            raise BackendError("the graph is full: open its context with more nodes")
        self.library = library
        self.handle = handle
        self.shape = tuple(shape)
        self.dtype = dtype
        self.graph = graph
        self.offsets: GGMLTensor | None = None
        self.widens = False
        self._view: tuple[int, Array] | None = None

    # -- building -------------------------------------------------------------------------------------

    def _graph_with(self, *others: Tensor | None) -> Graph:
        graph = self.graph
        for tensor in others:
            own = None if tensor is None else cast(GGMLTensor, tensor).graph
            if graph is None:
                graph = own
            elif own is not None and own is not graph:
                raise InvalidOption("the operands belong to different contexts")
        if graph is None:
            raise InvalidOption("none of the operands belongs to a context; use Tensor.on")
        graph.require_room()
        return graph

    def _result(self, graph: Graph, handle: int, shape: Sequence[int], dtype: DType) -> GGMLTensor:
        return GGMLTensor(self.library, handle, shape, dtype, graph)

    def _map(self, function: Callable[[int, int], int]) -> GGMLTensor:
        """A unary operation that keeps the shape, on a dense operand."""
        graph = self._graph_with()
        return self._result(graph, function(graph.handle, self.handle), self.shape, self.dtype)

    def _each(self, name: str, function: Callable[[int, int], int]) -> GGMLTensor:
        """A unary operation on elements."""
        rules.elements(name, self)
        return self._dense()._map(function)

    def _dense(self) -> GGMLTensor:
        return self if self._is_contiguous() else self.contiguous()

    def _combine(self, name: str, function: Callable[[int, int, int], int], other: Tensor) -> GGMLTensor:
        rules.arithmetic(name, self, other)
        graph = self._graph_with(other)
        handle = function(graph.handle, self._dense_elements().handle, cast(GGMLTensor, other).handle)
        return self._result(graph, handle, self.shape, self.dtype)

    # -- what it is -----------------------------------------------------------------------------------

    def stride(self, axis: int) -> int:
        axis = range(len(self.shape))[axis]
        return access.strides(self.handle)[len(self.shape) - 1 - axis]

    def on(self, context: Context) -> GGMLTensor:
        return self.on_graph(cast("GGMLContext", context).graph)

    def on_graph(self, graph: Graph) -> GGMLTensor:
        """The same tensor as an operand in `graph`."""
        tensor = GGMLTensor(self.library, self.handle, self.shape, self.dtype, graph)
        tensor.offsets, tensor.widens = self.offsets, self.widens
        return tensor

    def _is_contiguous(self) -> bool:
        return bool(self.library.ggml_is_contiguous(self.handle))

    def readable(self) -> bool:
        in_place = self.graph is None or self.graph.owns(self.handle)
        # Where memory is only planned, the address stands for none.
        return in_place and access.data(self.handle) > PLANNED

    def _require_readable(self) -> None:
        if not self.readable():
            raise BackendError("the tensor has no content to read: compute it first")

    def _require_writable(self) -> None:
        holder = access.root_buffer(self.handle)
        if holder and self.library.ggml_backend_buffer_get_usage(holder) == BackendBufferUsage.WEIGHTS:
            raise InvalidOption("a weight cannot be written")

    def tobytes(self) -> bytes:
        self._require_readable()
        size = self.library.ggml_nbytes(self.handle)
        content = np.empty(size, np.uint8)
        self.library.ggml_backend_tensor_get(self.handle, content.ctypes.data, 0, size)
        if self.dtype in _NUMPY and not self._is_contiguous():
            return self._strided(content).tobytes()
        return content.tobytes()

    def floats(self) -> Floats:
        if self.dtype in _NUMPY:
            return self._copied().astype(np.float32)
        self._require_readable()
        content = np.frombuffer(self.tobytes(), np.uint8)
        result = np.empty(math.prod(self.shape), np.float32)
        access.to_float(
            self.library, type_id(self.dtype), content.ctypes.data, result.ctypes.data, result.size
        )
        return result.reshape(self.shape)

    def array(self) -> Array:
        self._require_readable()
        if self.dtype not in _NUMPY:
            raise BackendError(f"NumPy has no element type {self.dtype.name}; use floats()")
        place = access.data(self.handle)
        # A result is read after every computation, mostly where it was before.
        if self._view is not None and self._view[0] == place:
            return self._view[1]
        buffer = access.buffer(self.handle)
        if not self.library.ggml_backend_buffer_is_host(buffer):
            return self._copied()
        size = self.library.ggml_nbytes(self.handle)
        view = self._strided(np.frombuffer(access.memory(place, size), np.uint8))
        self._view = place, view
        return view

    def _copied(self) -> Array:
        self._require_readable()
        size = self.library.ggml_nbytes(self.handle)
        content = np.empty(size, np.uint8)
        self.library.ggml_backend_tensor_get(self.handle, content.ctypes.data, 0, size)
        return self._strided(content)

    def _strided(self, memory: Array) -> Array:
        strides = [self.stride(axis) for axis in range(len(self.shape))]
        return np.ndarray(self.shape, _NUMPY[self.dtype], memory.data, strides=strides)

    def write(self, values: Array) -> None:
        self._require_writable()
        if access.data(self.handle) == PLANNED:
            raise BackendError("the backend only plans memory: nothing can be written")
        if self.dtype in _NUMPY:
            values = np.ascontiguousarray(values, _NUMPY[self.dtype])
        size = self.library.ggml_nbytes(self.handle)
        if values.nbytes != size or not self._is_contiguous():
            raise InvalidOption(f"{values.nbytes} bytes do not fill a tensor of {size} bytes")
        self.library.ggml_backend_tensor_set(self.handle, values.ctypes.data, 0, size)

    # -- element by element ---------------------------------------------------------------------------

    def neg(self) -> GGMLTensor:
        return self._each("neg", self.library.ggml_neg)

    def exp(self) -> GGMLTensor:
        return self._each("exp", self.library.ggml_exp)

    def sin(self) -> GGMLTensor:
        return self._each("sin", self.library.ggml_sin)

    def cos(self) -> GGMLTensor:
        return self._each("cos", self.library.ggml_cos)

    def sqr(self) -> GGMLTensor:
        return self._each("sqr", self.library.ggml_sqr)

    def sqrt(self) -> GGMLTensor:
        return self._each("sqrt", self.library.ggml_sqrt)

    def tanh(self) -> GGMLTensor:
        return self._each("tanh", self.library.ggml_tanh)

    def sigmoid(self) -> GGMLTensor:
        return self._each("sigmoid", self.library.ggml_sigmoid)

    def softplus(self) -> GGMLTensor:
        return self._each("softplus", self.library.ggml_softplus)

    def relu(self) -> GGMLTensor:
        return self._each("relu", self.library.ggml_relu)

    def gelu(self) -> GGMLTensor:
        return self._each("gelu", self.library.ggml_gelu)

    def gelu_erf(self) -> GGMLTensor:
        graph = self._graph_with()
        if not graph.executor.on_cpu:
            return self._each("gelu_erf", self.library.ggml_gelu_erf)
        # Nine times as fast as the library's, which calls erff for one element at a time.
        rules.elements("gelu_erf", self)
        square = self.sqr().clamp(0.0, _LOGIT_END)
        slope = square.scale(*_LOGIT[-1:-3:-1])
        for coefficient in _LOGIT[-3::-1]:
            slope = slope.mul(square).scale(1.0, coefficient)
        return self.mul(slope).silu().div(slope)

    def silu(self) -> GGMLTensor:
        return self._each("silu", self.library.ggml_silu)

    def quick_gelu(self) -> GGMLTensor:
        return self._each("gelu_quick", self.library.ggml_gelu_quick)

    def scale(self, factor: float, bias: float = 0.0) -> GGMLTensor:
        return self._each("scale", lambda ctx, x: self.library.ggml_scale_bias(ctx, x, factor, bias))

    def clamp(self, minimum: float, maximum: float) -> GGMLTensor:
        rules.elements("clamp", self)
        # ggml_clamp writes into its operand.
        return self.duplicate()._map(lambda ctx, x: self.library.ggml_clamp(ctx, x, minimum, maximum))

    def add(self, other: Tensor) -> GGMLTensor:
        return self._combine("add", self.library.ggml_add, other)

    def sub(self, other: Tensor) -> GGMLTensor:
        return self._combine("sub", self.library.ggml_sub, other)

    def mul(self, other: Tensor) -> GGMLTensor:
        return self._combine("mul", self.library.ggml_mul, other)

    def div(self, other: Tensor) -> GGMLTensor:
        return self._combine("div", self.library.ggml_div, other)

    def _gated(self, name: str, function: Callable[[int, int, int], int], up: Tensor) -> GGMLTensor:
        rules.gated(name, self, up)
        graph = self._graph_with(up)
        gate, other = self._dense_rows(), cast(GGMLTensor, up)._dense_rows()
        return self._result(graph, function(graph.handle, gate.handle, other.handle), self.shape, self.dtype)

    def _dense_rows(self) -> GGMLTensor:
        return self if self.library.ggml_is_contiguous_1(self.handle) else self.contiguous()

    def swiglu(self, up: Tensor) -> GGMLTensor:
        return self._gated("swiglu", self.library.ggml_swiglu_split, up)

    def geglu(self, up: Tensor) -> GGMLTensor:
        if self.shape[0] < _MANY_ROWS or self.dtype is not DType.F32:
            return self._gated("geglu", self.library.ggml_geglu_split, up)
        # ggml looks the kernel up in a table, element by element; for many rows these five vectorised
        # passes take a third of the time: with s = 2 sqrt(2 / pi) (1 + 0.044715 x²), gelu(x) = silu(s x) / s.
        rules.gated("geglu", self, up)
        stretch = self.mul(self).scale(_GELU_SCALE * 0.044715, _GELU_SCALE)
        return stretch.mul(self).swiglu(up).div(stretch)

    def reglu(self, up: Tensor) -> GGMLTensor:
        return self._gated("reglu", self.library.ggml_reglu_split, up)

    def swiglu_oai(self, up: Tensor, alpha: float, limit: float) -> GGMLTensor:
        def function(ctx: int, gate: int, other: int) -> int:
            return int(self.library.ggml_swiglu_oai(ctx, gate, other, alpha, limit))

        return self._gated("swiglu_oai", function, up)

    # -- matrices -------------------------------------------------------------------------------------

    def mul_mat(self, other: Tensor) -> GGMLTensor:
        shape = rules.mul_mat(self, other)
        graph = self._graph_with(other)
        matrix, vectors = self._with_dense_elements(), cast(GGMLTensor, other)._with_dense_elements()
        if self.widens and math.prod(other.shape[:-1]) >= _MANY_VECTORS:
            matrix = matrix.on_graph(graph).cast(DType.F32)
        handle = self.library.ggml_mul_mat(graph.handle, matrix.handle, vectors.handle)
        product = self._result(graph, handle, shape, DType.F32)
        return product if self.offsets is None else product.add(self._offset_product(self.offsets, vectors))

    def _offset_product(self, offsets: GGMLTensor, vectors: GGMLTensor) -> GGMLTensor:
        """What the blocks' offsets add to a product: each times the sum of its elements of the vector."""
        blocks = offsets.shape[-1]
        sums = vectors.reshape(-1, blocks, self.shape[-1] // blocks).sum_rows()
        return offsets.mul_mat(sums.reshape(*vectors.shape[:-1], blocks))

    def _with_dense_elements(self) -> GGMLTensor:
        """This tensor with its last axis contiguous and its axes in order of their strides."""
        strides = access.strides(self.handle)
        return self if strides[0] <= strides[1] and strides[0] == self._element_size() else self.contiguous()

    def _dense_elements(self) -> GGMLTensor:
        """This tensor with its last axis contiguous."""
        return self if self.stride(-1) == self._element_size() else self.contiguous()

    def _with_usual_strides(self) -> GGMLTensor:
        """This tensor as if made anew. An axis of one element counts as dense whatever its stride is."""
        usual = rules.dense_strides(self._type(), self.shape)
        return (
            self if all(self.stride(axis) == usual[axis] for axis in range(len(usual))) else self.contiguous()
        )

    def _element_size(self) -> int:
        return int(self.library.ggml_type_size(access.element_type(self.handle)))

    def mul_mat_full_prec(self, other: Tensor) -> GGMLTensor:
        result = self.mul_mat(other)
        self.library.ggml_mul_mat_set_prec(result.handle, _PRECISION_F32)
        return result

    def mul_mat_id(self, other: Tensor, ids: Tensor) -> GGMLTensor:
        shape = rules.mul_mat_id(self, other, ids)
        graph = self._graph_with(other, ids)
        operands = (self.handle, cast(GGMLTensor, other).handle, cast(GGMLTensor, ids).handle)
        handle = self.library.ggml_mul_mat_id(graph.handle, *operands)
        return self._result(graph, handle, shape, DType.F32)

    def add_id(self, bias: Tensor, ids: Tensor) -> GGMLTensor:
        rules.add_id(self, bias, ids)
        graph = self._graph_with(ids)
        operands = (self._dense_rows().handle, cast(GGMLTensor, bias).handle, cast(GGMLTensor, ids).handle)
        return self._result(graph, self.library.ggml_add_id(graph.handle, *operands), self.shape, self.dtype)

    # -- along the last axis --------------------------------------------------------------------------

    def softmax(
        self, mask: Tensor | None = None, scale: float = 1.0, sinks: Tensor | None = None
    ) -> GGMLTensor:
        rules.softmax(self, mask, sinks)
        graph = self._graph_with()
        scores = self._dense()
        mask_handle = 0 if mask is None else cast(GGMLTensor, mask)._dense().handle
        handle = self.library.ggml_soft_max_ext(graph.handle, scores.handle, mask_handle, scale, 0.0)
        if sinks is not None:
            self.library.ggml_soft_max_add_sinks(handle, cast(GGMLTensor, sinks).handle)
        return self._result(graph, handle, self.shape, self.dtype)

    def _each_row(self, name: str, function: Callable[[int, int], int]) -> GGMLTensor:
        """An operation along rows that keeps the shape."""
        rules.elements(name, self)
        return self._dense_elements()._map(function)

    def norm(self, eps: float) -> GGMLTensor:
        return self._each_row("norm", lambda ctx, x: self.library.ggml_norm(ctx, x, eps))

    def rms_norm(self, weight: Tensor | None, eps: float) -> GGMLTensor:
        result = self._each_row("rms_norm", lambda ctx, x: self.library.ggml_rms_norm(ctx, x, eps))
        return result if weight is None else result.mul(weight)

    def l2_norm(self, eps: float) -> GGMLTensor:
        return self._each_row("l2_norm", lambda ctx, x: self.library.ggml_l2_norm(ctx, x, eps))

    def _reduce(self, name: str, function: Callable[[int, int], int]) -> GGMLTensor:
        rules.elements(name, self)
        graph = self._graph_with()
        handle = function(graph.handle, self._dense().handle)
        return self._result(graph, handle, (*self.shape[:-1], 1), self.dtype)

    def sum_rows(self) -> GGMLTensor:
        return self._reduce("sum_rows", self.library.ggml_sum_rows)

    def mean(self) -> GGMLTensor:
        return self._reduce("mean", self.library.ggml_mean)

    def argsort(self) -> GGMLTensor:
        rules.elements("argsort", self)
        graph = self._graph_with()
        handle = self.library.ggml_argsort(graph.handle, self._dense().handle, _SORT_ASCENDING)
        return self._result(graph, handle, self.shape, DType.I32)

    def top_k(self, k: int) -> GGMLTensor:
        shape = rules.top_k(self, k)
        graph = self._graph_with()
        handle = self.library.ggml_argsort_top_k(graph.handle, self._dense().handle, k)
        return self._result(graph, handle, shape, DType.I32)

    # -- shape ----------------------------------------------------------------------------------------

    def reshape(self, *shape: int) -> GGMLTensor:
        shape = rules.reshape(self.shape, shape)
        rules.whole_blocks(self._type(), shape)
        if not self._is_contiguous():
            return self._split_last(shape) or self.contiguous(*shape)
        graph = self._graph_with()
        sizes = extents(shape)
        handle = self.library.ggml_reshape_4d(graph.handle, self.handle, *sizes)
        return self._result(graph, handle, shape, self.dtype)

    def _type(self) -> GGMLType:
        return GGMLType(access.element_type(self.handle))

    def _split_last(self, shape: tuple[int, ...]) -> GGMLTensor | None:
        """Rows that lie apart can still be split without a copy, as heads of a fused projection are."""
        kept = len(self.shape) - 1
        dense_rows = self.stride(-1) == self._element_size()
        if (
            not dense_rows
            or len(shape) == kept
            or shape[:kept] != self.shape[:-1]
            or self.dtype not in _NUMPY
        ):
            return None
        inner = [self._element_size() * math.prod(shape[axis + 1 :]) for axis in range(kept, len(shape) - 1)]
        return self.view(0, shape, [*(self.stride(axis) for axis in range(kept)), *inner])

    def view(self, offset: int, shape: Sequence[int], strides: Sequence[int] = ()) -> GGMLTensor:
        room = self.library.ggml_nbytes(self.handle)
        steps = [*reversed(rules.view(self._type(), room, offset, shape, strides)[:-1])]
        graph = self._graph_with()
        while len(steps) < _MAX_AXES - 1:
            steps.append(room)
        handle = self.library.ggml_view_4d(graph.handle, self.handle, *extents(shape), *steps, offset)
        return self._result(graph, handle, shape, self.dtype)

    def permute(self, *axes: int) -> GGMLTensor:
        shape, count = rules.permute(self, axes), len(axes)
        target = list(range(_MAX_AXES))
        for position, axis in enumerate(axes):
            target[count - 1 - axis] = count - 1 - position
        graph = self._graph_with()
        handle = self.library.ggml_permute(graph.handle, self.handle, *target)
        return self._result(graph, handle, shape, self.dtype)

    def contiguous(self, *shape: int) -> GGMLTensor:
        graph = self._graph_with()
        shape = rules.reshape(self.shape, shape or self.shape)
        handle = self.library.ggml_cont_4d(graph.handle, self.handle, *extents(shape))
        return self._result(graph, handle, shape, self.dtype)

    def pad(self, *counts: int) -> GGMLTensor:
        shape = rules.pad(self, counts)
        graph = self._graph_with()
        amounts = [*reversed(counts), 0, 0, 0][:_MAX_AXES]
        handle = self.library.ggml_pad(graph.handle, self._dense().handle, *amounts)
        return self._result(graph, handle, shape, self.dtype)

    def repeat(self, axis: int, n: int) -> GGMLTensor:
        shape = rules.repeat(self, axis, n)
        graph = self._graph_with()
        handle = self.library.ggml_repeat_4d(graph.handle, self._dense_elements().handle, *extents(shape))
        return self._result(graph, handle, shape, self.dtype)

    def concat(self, other: Tensor, axis: int) -> GGMLTensor:
        shape = rules.concat(self, other, axis)
        graph = self._graph_with(other)
        dimension = len(shape) - 1 - rules.axis_of(shape, axis)
        handle = self.library.ggml_concat(
            graph.handle, self.handle, cast(GGMLTensor, other).handle, dimension
        )
        return self._result(graph, handle, shape, self.dtype)

    def rows(self, ids: Tensor) -> GGMLTensor:
        shape = rules.rows(self, ids)
        graph = self._graph_with(ids)
        handle = self.library.ggml_get_rows(graph.handle, self.handle, cast(GGMLTensor, ids).handle)
        return self._result(graph, handle, shape, DType.I32 if self.dtype is DType.I32 else DType.F32)

    def set_rows(self, values: Tensor, ids: Tensor) -> GGMLTensor:
        rules.set_rows(self, values, ids)
        self._require_writable()
        graph = self._graph_with(values, ids)
        rows = cast(GGMLTensor, values)._dense_rows()
        handle = self.library.ggml_set_rows(
            graph.handle, self.handle, rows.handle, cast(GGMLTensor, ids).handle
        )
        return self._result(graph, handle, self.shape, self.dtype)

    def set(self, other: Tensor, offset: int, *strides: int) -> GGMLTensor:
        rules.set_region(self, other, strides)
        rules.view(self._type(), self.library.ggml_nbytes(self.handle), offset, other.shape, strides)
        graph = self._graph_with(other)
        source = cast(GGMLTensor, other)._dense().handle
        target = self._dense().handle
        if strides:
            handle = self.library.ggml_set_2d(graph.handle, target, source, strides[0], offset)
        else:
            handle = self.library.ggml_set_1d(graph.handle, target, source, offset)
        return self._result(graph, handle, self.shape, self.dtype)

    def copy(self, target: Tensor) -> GGMLTensor:
        rules.copy(self, target)
        cast(GGMLTensor, target)._require_writable()
        graph = self._graph_with(target)
        handle = self.library.ggml_cpy(graph.handle, self.handle, cast(GGMLTensor, target).handle)
        return self._result(graph, handle, target.shape, target.dtype)

    def duplicate(self) -> GGMLTensor:
        return self._map(self.library.ggml_dup)

    def cast(self, dtype: DType) -> GGMLTensor:
        rules.converts(self, dtype)
        rules.whole_blocks(GGMLType(type_id(dtype)), self.shape)
        graph = self._graph_with()
        handle = self.library.ggml_cast(graph.handle, self.handle, type_id(dtype))
        return self._result(graph, handle, self.shape, dtype)

    # -- states ---------------------------------------------------------------------------------------

    def ssm_conv(self, kernel: Tensor) -> GGMLTensor:
        shape = rules.ssm_conv(self, kernel)
        graph = self._graph_with(kernel)
        seen, weights = self._with_usual_strides(), cast(GGMLTensor, kernel)._with_usual_strides()
        handle = self.library.ggml_ssm_conv(graph.handle, seen.handle, weights.handle)
        return self._result(graph, handle, shape, DType.F32)

    def _gated_delta_net(
        self, key: Tensor, value: Tensor, decay: Tensor, rate: Tensor, state: Tensor
    ) -> GGMLTensor:
        graph = self._graph_with(key, value, decay, rate, state)
        rows = [cast(GGMLTensor, each)._dense_elements() for each in (self, key, value)]
        gates = [cast(GGMLTensor, each).reshape(*each.shape, 1) for each in (decay, rate)]
        dense = [*rows, *gates, cast(GGMLTensor, state)._dense()]
        handle = self.library.ggml_gated_delta_net(graph.handle, *(each.handle for each in dense), 1)
        sequences, tokens, heads, size = value.shape
        return self._result(graph, handle, (sequences * (tokens + size), heads * size), DType.F32)

    # -- images ---------------------------------------------------------------------------------------

    def avg_pool_2d(self, kernel: int, stride: int, padding: float) -> GGMLTensor:
        shape = rules.pool(self, kernel, stride, padding)
        graph = self._graph_with()
        sizes = (kernel, kernel, stride, stride)
        handle = self.library.ggml_pool_2d(
            graph.handle, self._dense().handle, _POOL_AVERAGE, *sizes, padding, padding
        )
        return self._result(graph, handle, shape, DType.F32)

    def conv_2d(
        self, images: Tensor, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
    ) -> GGMLTensor:
        # ggml_conv_2d rounds the images to half precision in some versions.
        patches = self.im2col(images, stride, padding, dilation)
        kernel = self._result(patches._graph_with(), self.handle, self.shape, self.dtype)
        products = kernel.reshape(self.shape[0], math.prod(self.shape[1:])).mul_mat(patches)
        return products.permute(0, 3, 1, 2).contiguous()

    def im2col(
        self, images: Tensor, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
    ) -> GGMLTensor:
        height, width = rules.patches(self, images, stride, padding, dilation)
        graph = self._graph_with(images)
        operands = (self.handle, cast(GGMLTensor, images)._dense().handle)
        options = (*stride, *padding, *dilation, True, type_id(DType.F32))
        handle = self.library.ggml_im2col(graph.handle, *operands, *options)
        patch = math.prod(self.shape[1:])
        return self._result(graph, handle, (images.shape[0], height, width, patch), DType.F32)

    # -- attention ------------------------------------------------------------------------------------

    def rope(
        self, positions: Tensor, parameters: RopeParameters, factors: Tensor | None = None
    ) -> GGMLTensor:
        p = parameters
        rules.rope(self, positions, p, factors)
        graph = self._graph_with(positions)
        heads = self._dense_elements()
        operands = (heads.handle, cast(GGMLTensor, positions).handle)
        last = (p.base, 1.0 / p.scale, p.extrapolation, p.attention_factor, p.beta_fast, p.beta_slow)
        factor = 0 if factors is None else cast(GGMLTensor, factors).handle
        kind: tuple[int, ...] = (int(p.type), p.original_context)
        if p.type.is_multi:
            sections = np.asarray([*p.sections, 0, 0, 0, 0][:4], np.int32)
            kind = (sections.ctypes.data, *kind)
        rope = self.library.ggml_rope_multi if p.type.is_multi else self.library.ggml_rope_ext
        handle = rope(graph.handle, *operands, factor, p.dimensions, *kind, *last)
        return self._result(graph, handle, self.shape, self.dtype)

    def scaled_dot_product_attention(
        self,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float,
        *,
        sinks: Tensor | None = None,
        logit_softcap: float = 0.0,
    ) -> Tensor:
        graph = self._graph_with(key, value, mask)
        if not graph.flash_attention:
            return super().scaled_dot_product_attention(
                key, value, mask, scale, sinks=sinks, logit_softcap=logit_softcap
            )
        shape = rules.attention(self, key, value, mask, sinks)
        if mask is not None and mask.dtype is not DType.F16:
            raise InvalidOption(f"fused attention takes a mask of type F16, not {mask.dtype.name}")
        query, keys, values = (
            cast(GGMLTensor, t).permute(1, 0, 2)._with_dense_elements() for t in (self, key, value)
        )
        mask_handle = 0 if mask is None else cast(GGMLTensor, mask).handle
        handle = self.library.ggml_flash_attn_ext(
            graph.handle, query.handle, keys.handle, values.handle, mask_handle, scale, 0.0, logit_softcap
        )
        self.library.ggml_flash_attn_ext_set_prec(handle, _PRECISION_F32)
        if sinks is not None:
            self.library.ggml_flash_attn_ext_add_sinks(handle, cast(GGMLTensor, sinks).handle)
        return self._result(graph, handle, shape, DType.F32)
