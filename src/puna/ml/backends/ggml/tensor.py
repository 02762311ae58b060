"""Tensors of the ggml backend: shape checks in Python, then one call per operation.

ggml counts axes from the contiguous one and always has four; `shape` here counts from the slowest. The
checks come first because the library ends the process when a shape does not fit.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from puna.errors import BackendError, InvalidOption
from puna.ggml import access
from puna.gguf import GGMLType
from puna.ml.array import Array, Floats
from puna.ml.dtype import DType
from puna.ml.rope import RopeParameters, RopeType
from puna.ml.tensor import Tensor

if TYPE_CHECKING:
    from puna.ggml import Library
    from puna.ml.backends.ggml.context import GGMLContext
    from puna.ml.backends.ggml.graph import Graph
    from puna.ml.context import Context

_NUMPY = {DType.F32: np.float32, DType.F16: np.float16, DType.I32: np.int32, DType.I64: np.int64}
_TYPE_IDS = {dtype: int(GGMLType[dtype.name]) for dtype in DType if dtype is not DType.OTHER}
_DTYPES = {type_id: dtype for dtype, type_id in _TYPE_IDS.items()}
_PRECISION_F32 = 10
_SORT_ASCENDING = 0
_POOL_AVERAGE = 1
_MAX_AXES = 4


def type_id(dtype: DType) -> int:
    """ggml's number of an element type."""
    if dtype is DType.OTHER:
        raise InvalidOption("a tensor cannot be made of type OTHER")
    return _TYPE_IDS[dtype]


def dtype_of(type_number: int) -> DType:
    """The element type with ggml's number; OTHER for types that cannot be read back."""
    return _DTYPES.get(type_number, DType.OTHER)


def extents(shape: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    """The four sizes of `shape` in ggml's order."""
    padded = [*reversed(shape), 1, 1, 1, 1][:_MAX_AXES]
    return (ctypes.c_int64 * _MAX_AXES)(*padded)


def _require(fits: bool, operation: str, *tensors: Tensor) -> None:
    if not fits:
        shapes = ", ".join(f"{tensor.shape} {tensor.dtype.name}" for tensor in tensors)
        raise InvalidOption(f"{operation}: these tensors do not fit: {shapes}")


def _repeats_to(small: Sequence[int], large: Sequence[int]) -> bool:
    """Whether `small` can be repeated to `large`, compared from the last axis."""
    if len(small) > len(large):
        return math.prod(small[: len(small) - len(large)]) == 1 and _repeats_to(small[-len(large) :], large)
    return all(b % a == 0 for a, b in zip(reversed(small), reversed(large), strict=False))


class GGMLTensor(Tensor):
    """A `ggml_tensor`; see `Tensor` for the operations.

    Attributes:
        handle: address of the `ggml_tensor`.
        graph: the graph it belongs to, None for weights and storage.
        library: the compute library.
    """

    __slots__ = ("graph", "handle", "library")

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

    # -- building -------------------------------------------------------------------------------------

    def _graph_with(self, *others: Tensor | None) -> Graph:
        for tensor in (self, *others):
            if tensor is not None and (graph := cast(GGMLTensor, tensor).graph) is not None:
                graph.require_room()
                return graph
        raise InvalidOption("none of the operands belongs to a context; use Tensor.on")

    def _result(self, graph: Graph, handle: int, shape: Sequence[int], dtype: DType) -> GGMLTensor:
        return GGMLTensor(self.library, handle, shape, dtype, graph)

    def _map(self, function: Callable[[int, int], int]) -> GGMLTensor:
        """A unary operation that keeps the shape, on a dense operand."""
        graph = self._graph_with()
        return self._result(graph, function(graph.handle, self.handle), self.shape, self.dtype)

    def _dense(self) -> GGMLTensor:
        return self if self._is_contiguous() else self.contiguous()

    def _combine(self, name: str, function: Callable[[int, int, int], int], other: Tensor) -> GGMLTensor:
        _require(_repeats_to(other.shape, self.shape), name, self, other)
        graph = self._graph_with(other)
        handle = function(graph.handle, self._dense_elements().handle, cast(GGMLTensor, other).handle)
        return self._result(graph, handle, self.shape, self.dtype)

    # -- what it is -----------------------------------------------------------------------------------

    def stride(self, axis: int) -> int:
        axis = range(len(self.shape))[axis]
        return access.strides(self.handle)[len(self.shape) - 1 - axis]

    def on(self, context: Context) -> GGMLTensor:
        graph = cast("GGMLContext", context).graph
        return GGMLTensor(self.library, self.handle, self.shape, self.dtype, graph)

    def _is_contiguous(self) -> bool:
        return bool(self.library.ggml_is_contiguous(self.handle))

    def readable(self) -> bool:
        in_place = self.graph is None or self.graph.owns(self.handle)
        return in_place and access.data(self.handle) != 0

    def _require_readable(self) -> None:
        if not self.readable():
            raise BackendError("the tensor has no content to read: compute it first")

    def tobytes(self) -> bytes:
        self._require_readable()
        size = self.library.ggml_nbytes(self.handle)
        content = ctypes.create_string_buffer(size)
        self.library.ggml_backend_tensor_get(self.handle, ctypes.addressof(content), 0, size)
        if self.dtype in _NUMPY and not self._is_contiguous():
            return self._strided(np.frombuffer(content.raw, np.uint8)).tobytes()
        return content.raw

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
        buffer = access.buffer(self.handle)
        if not self.library.ggml_backend_buffer_is_host(buffer):
            return self._copied()
        size = self.library.ggml_nbytes(self.handle)
        memory = access.memory(access.data(self.handle), size)
        return self._strided(np.frombuffer(memory, np.uint8))

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
        if self.dtype in _NUMPY:
            values = np.ascontiguousarray(values, _NUMPY[self.dtype])
        size = self.library.ggml_nbytes(self.handle)
        if values.nbytes != size or not self._is_contiguous():
            raise InvalidOption(f"{values.nbytes} bytes do not fill a tensor of {size} bytes")
        self.library.ggml_backend_tensor_set(self.handle, values.ctypes.data, 0, size)

    # -- element by element ---------------------------------------------------------------------------

    def neg(self) -> GGMLTensor:
        return self._dense()._map(self.library.ggml_neg)

    def exp(self) -> GGMLTensor:
        return self._dense()._map(self.library.ggml_exp)

    def sin(self) -> GGMLTensor:
        return self._dense()._map(self.library.ggml_sin)

    def cos(self) -> GGMLTensor:
        return self._dense()._map(self.library.ggml_cos)

    def sqr(self) -> GGMLTensor:
        return self._dense()._map(self.library.ggml_sqr)

    def sqrt(self) -> GGMLTensor:
        return self._dense()._map(self.library.ggml_sqrt)

    def tanh(self) -> GGMLTensor:
        return self._dense()._map(self.library.ggml_tanh)

    def sigmoid(self) -> GGMLTensor:
        return self._dense()._map(self.library.ggml_sigmoid)

    def relu(self) -> GGMLTensor:
        return self._dense()._map(self.library.ggml_relu)

    def gelu(self) -> GGMLTensor:
        return self._dense()._map(self.library.ggml_gelu)

    def gelu_erf(self) -> GGMLTensor:
        return self._dense()._map(self.library.ggml_gelu_erf)

    def silu(self) -> GGMLTensor:
        return self._dense()._map(self.library.ggml_silu)

    def quick_gelu(self) -> GGMLTensor:
        return self._dense()._map(self.library.ggml_gelu_quick)

    def scale(self, factor: float, bias: float = 0.0) -> GGMLTensor:
        return self._dense()._map(lambda ctx, x: self.library.ggml_scale_bias(ctx, x, factor, bias))

    def clamp(self, minimum: float, maximum: float) -> GGMLTensor:
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
        _require(self.shape == up.shape and self.dtype is up.dtype, name, self, up)
        graph = self._graph_with(up)
        gate, other = self._dense_rows(), cast(GGMLTensor, up)._dense_rows()
        return self._result(graph, function(graph.handle, gate.handle, other.handle), self.shape, self.dtype)

    def _dense_rows(self) -> GGMLTensor:
        return self if self.library.ggml_is_contiguous_1(self.handle) else self.contiguous()

    def swiglu(self, up: Tensor) -> GGMLTensor:
        return self._gated("swiglu", self.library.ggml_swiglu_split, up)

    def geglu(self, up: Tensor) -> GGMLTensor:
        return self._gated("geglu", self.library.ggml_geglu_split, up)

    def reglu(self, up: Tensor) -> GGMLTensor:
        return self._gated("reglu", self.library.ggml_reglu_split, up)

    def swiglu_oai(self, up: Tensor, alpha: float, limit: float) -> GGMLTensor:
        def function(ctx: int, gate: int, other: int) -> int:
            return int(self.library.ggml_swiglu_oai(ctx, gate, other, alpha, limit))

        return self._gated("swiglu_oai", function, up)

    # -- matrices -------------------------------------------------------------------------------------

    def mul_mat(self, other: Tensor) -> GGMLTensor:
        fits = (
            self.shape[-1] == other.shape[-1]
            and len(self.shape) <= max(len(other.shape), 2)
            and _repeats_to(self.shape[:-2], other.shape[:-2])
        )
        _require(fits, "mul_mat", self, other)
        graph = self._graph_with(other)
        matrix, vectors = self._with_dense_elements(), cast(GGMLTensor, other)._with_dense_elements()
        handle = self.library.ggml_mul_mat(graph.handle, matrix.handle, vectors.handle)
        rows = self.shape[-2] if len(self.shape) > 1 else 1
        return self._result(graph, handle, (*other.shape[:-1], rows), DType.F32)

    def _with_dense_elements(self) -> GGMLTensor:
        """This tensor with its last axis contiguous and its axes in order of their strides."""
        strides = access.strides(self.handle)
        return self if strides[0] <= strides[1] and strides[0] == self._element_size() else self.contiguous()

    def _dense_elements(self) -> GGMLTensor:
        """This tensor with its last axis contiguous."""
        return self if self.stride(-1) == self._element_size() else self.contiguous()

    def _element_size(self) -> int:
        return int(self.library.ggml_type_size(access.element_type(self.handle)))

    def mul_mat_full_prec(self, other: Tensor) -> GGMLTensor:
        result = self.mul_mat(other)
        self.library.ggml_mul_mat_set_prec(result.handle, _PRECISION_F32)
        return result

    def mul_mat_id(self, other: Tensor, ids: Tensor) -> GGMLTensor:
        experts, rows, width = self.shape
        tokens, used = ids.shape
        fits = (
            other.shape[0] == tokens
            and other.shape[-1] == width
            and used % other.shape[1] == 0
            and ids.dtype is DType.I32
            and other.dtype is DType.F32
        )
        _require(fits, f"mul_mat_id with {experts} experts", self, other, ids)
        graph = self._graph_with(other, ids)
        operands = (self.handle, cast(GGMLTensor, other).handle, cast(GGMLTensor, ids).handle)
        handle = self.library.ggml_mul_mat_id(graph.handle, *operands)
        return self._result(graph, handle, (tokens, used, rows), DType.F32)

    def add_id(self, bias: Tensor, ids: Tensor) -> GGMLTensor:
        fits = bias.shape[-1] == self.shape[-1] and ids.shape == self.shape[:2] and ids.dtype is DType.I32
        _require(fits and bias.dtype is DType.F32 and self.dtype is DType.F32, "add_id", self, bias, ids)
        graph = self._graph_with(ids)
        operands = (self._dense_rows().handle, cast(GGMLTensor, bias).handle, cast(GGMLTensor, ids).handle)
        return self._result(graph, self.library.ggml_add_id(graph.handle, *operands), self.shape, self.dtype)

    # -- along the last axis --------------------------------------------------------------------------

    def softmax(
        self, mask: Tensor | None = None, scale: float = 1.0, sinks: Tensor | None = None
    ) -> GGMLTensor:
        graph = self._graph_with()
        scores = self._dense()
        mask_handle = 0
        if mask is not None:
            fits = mask.shape[-2:] == self.shape[-2:] and mask.dtype in (DType.F32, DType.F16)
            _require(fits, "softmax", self, mask)
            mask_handle = cast(GGMLTensor, mask)._dense().handle
        handle = self.library.ggml_soft_max_ext(graph.handle, scores.handle, mask_handle, scale, 0.0)
        if sinks is not None:
            _require(sinks.shape == self.shape[-3:-2] and sinks.dtype is DType.F32, "softmax", self, sinks)
            self.library.ggml_soft_max_add_sinks(handle, cast(GGMLTensor, sinks).handle)
        return self._result(graph, handle, self.shape, self.dtype)

    def norm(self, eps: float) -> GGMLTensor:
        return self._dense_elements()._map(lambda ctx, x: self.library.ggml_norm(ctx, x, eps))

    def rms_norm(self, weight: Tensor | None, eps: float) -> GGMLTensor:
        result = self._dense_elements()._map(lambda ctx, x: self.library.ggml_rms_norm(ctx, x, eps))
        return result if weight is None else result.mul(weight)

    def l2_norm(self, eps: float) -> GGMLTensor:
        return self._dense_elements()._map(lambda ctx, x: self.library.ggml_l2_norm(ctx, x, eps))

    def _reduce(self, function: Callable[[int, int], int]) -> GGMLTensor:
        graph = self._graph_with()
        handle = function(graph.handle, self._dense().handle)
        return self._result(graph, handle, (*self.shape[:-1], 1), self.dtype)

    def sum_rows(self) -> GGMLTensor:
        return self._reduce(self.library.ggml_sum_rows)

    def mean(self) -> GGMLTensor:
        return self._reduce(self.library.ggml_mean)

    def argsort(self) -> GGMLTensor:
        _require(self.dtype is DType.F32, "argsort", self)
        graph = self._graph_with()
        handle = self.library.ggml_argsort(graph.handle, self._dense().handle, _SORT_ASCENDING)
        return self._result(graph, handle, self.shape, DType.I32)

    def top_k(self, k: int) -> GGMLTensor:
        _require(self.dtype is DType.F32 and 1 <= k <= self.shape[-1], f"top_k({k})", self)
        graph = self._graph_with()
        handle = self.library.ggml_argsort_top_k(graph.handle, self._dense().handle, k)
        return self._result(graph, handle, (*self.shape[:-1], k), DType.I32)

    # -- shape ----------------------------------------------------------------------------------------

    def reshape(self, *shape: int) -> GGMLTensor:
        shape = self._resolved(shape)
        if not self._is_contiguous():
            return self._split_last(shape) or self.contiguous(*shape)
        graph = self._graph_with()
        sizes = extents(shape)
        handle = self.library.ggml_reshape_4d(graph.handle, self.handle, *sizes)
        return self._result(graph, handle, shape, self.dtype)

    def _resolved(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """`shape` with its -1 replaced, checked against the number of elements."""
        total, known = math.prod(self.shape), math.prod(size for size in shape if size != -1)
        if shape.count(-1) == 1 and known > 0 and total % known == 0:
            shape = tuple(total // known if size == -1 else size for size in shape)
        if not 1 <= len(shape) <= _MAX_AXES or min(shape) < 1 or math.prod(shape) != total:
            raise InvalidOption(f"a tensor of shape {self.shape} cannot be reshaped to {shape}")
        return shape

    def _split_last(self, shape: tuple[int, ...]) -> GGMLTensor | None:
        """Rows that lie apart can still be split without a copy, as heads of a fused projection are."""
        kept = len(self.shape) - 1
        dense_rows = self.stride(-1) == self._element_size()
        if not dense_rows or shape[:kept] != self.shape[:-1] or self.dtype not in _NUMPY:
            return None
        inner = [self._element_size() * math.prod(shape[axis + 1 :]) for axis in range(kept, len(shape) - 1)]
        return self.view(0, shape, [*(self.stride(axis) for axis in range(kept)), *inner])

    def view(self, offset: int, shape: Sequence[int], strides: Sequence[int] = ()) -> GGMLTensor:
        row = int(self.library.ggml_row_size(access.element_type(self.handle), shape[-1]))
        if not strides:
            strides = [row * math.prod(shape[axis + 1 : -1]) for axis in range(len(shape) - 1)]
        if len(strides) != len(shape) - 1 or not 1 <= len(shape) <= _MAX_AXES or min(shape) < 1:
            raise InvalidOption(f"a view of shape {tuple(shape)} cannot have strides {tuple(strides)}")
        span = row + sum((size - 1) * step for size, step in zip(shape, strides, strict=False))
        end = offset + max(span, row * math.prod(shape[:-1]))
        if offset < 0 or end > self.library.ggml_nbytes(self.handle):
            raise InvalidOption(f"a view of bytes {offset} to {end} leaves the tensor of shape {self.shape}")
        graph = self._graph_with()
        sizes, steps = [*extents(shape)], [*reversed(strides)] or [row]
        while len(steps) < _MAX_AXES - 1:
            steps.append(steps[-1] * sizes[len(steps)])
        handle = self.library.ggml_view_4d(graph.handle, self.handle, *extents(shape), *steps, offset)
        return self._result(graph, handle, shape, self.dtype)

    def permute(self, *axes: int) -> GGMLTensor:
        count = len(self.shape)
        _require(sorted(axes) == list(range(count)), f"permute{axes}", self)
        target = list(range(_MAX_AXES))
        for position, axis in enumerate(axes):
            target[count - 1 - axis] = count - 1 - position
        graph = self._graph_with()
        handle = self.library.ggml_permute(graph.handle, self.handle, *target)
        return self._result(graph, handle, [self.shape[axis] for axis in axes], self.dtype)

    def contiguous(self, *shape: int) -> GGMLTensor:
        graph = self._graph_with()
        shape = self._resolved(shape) if shape else self.shape
        handle = self.library.ggml_cont_4d(graph.handle, self.handle, *extents(shape))
        return self._result(graph, handle, shape, self.dtype)

    def pad(self, *counts: int) -> GGMLTensor:
        fits = len(counts) == len(self.shape) and min(counts) >= 0 and self.dtype is DType.F32
        _require(fits, f"pad{counts}", self)
        graph = self._graph_with()
        amounts = [*reversed(counts), 0, 0, 0][:_MAX_AXES]
        handle = self.library.ggml_pad(graph.handle, self._dense().handle, *amounts)
        shape = [size + count for size, count in zip(self.shape, counts, strict=True)]
        return self._result(graph, handle, shape, self.dtype)

    def repeat(self, axis: int, n: int) -> GGMLTensor:
        shape = list(self.shape)
        _require(n >= 1, f"repeat({axis}, {n})", self)
        shape[axis] *= n
        graph = self._graph_with()
        handle = self.library.ggml_repeat_4d(graph.handle, self._dense_elements().handle, *extents(shape))
        return self._result(graph, handle, shape, self.dtype)

    def concat(self, other: Tensor, axis: int) -> GGMLTensor:
        axis = range(len(self.shape))[axis]
        rest, other_rest = (t.shape[:axis] + t.shape[axis + 1 :] for t in (self, other))
        fits = rest == other_rest and len(self.shape) == len(other.shape) and self.dtype is other.dtype
        _require(fits, f"concat along axis {axis}", self, other)
        graph = self._graph_with(other)
        dimension = len(self.shape) - 1 - axis
        handle = self.library.ggml_concat(
            graph.handle, self.handle, cast(GGMLTensor, other).handle, dimension
        )
        shape = list(self.shape)
        shape[axis] += other.shape[axis]
        return self._result(graph, handle, shape, self.dtype)

    def rows(self, ids: Tensor) -> GGMLTensor:
        fits = ids.dtype is DType.I32 and ids.shape[:-1] == self.shape[:-2]
        _require(fits, "rows", self, ids)
        graph = self._graph_with(ids)
        handle = self.library.ggml_get_rows(graph.handle, self.handle, cast(GGMLTensor, ids).handle)
        dtype = DType.I32 if self.dtype is DType.I32 else DType.F32
        return self._result(graph, handle, (*ids.shape, self.shape[-1]), dtype)

    def set_rows(self, values: Tensor, ids: Tensor) -> GGMLTensor:
        fits = (
            len(self.shape) == len(values.shape) == 2
            and self.shape[-1] == values.shape[-1]
            and ids.shape == values.shape[:1]
            and ids.dtype in (DType.I64, DType.I32)
            and values.dtype is DType.F32
        )
        _require(fits, "set_rows", self, values, ids)
        graph = self._graph_with(values, ids)
        rows = cast(GGMLTensor, values)._dense_rows()
        handle = self.library.ggml_set_rows(
            graph.handle, self.handle, rows.handle, cast(GGMLTensor, ids).handle
        )
        return self._result(graph, handle, self.shape, self.dtype)

    def set(self, other: Tensor, offset: int, *strides: int) -> GGMLTensor:
        fits = other.dtype is self.dtype and len(other.shape) == 1 + len(strides) <= 2
        row = other.shape[-1] * self._element_size()
        end = offset + row + (strides[0] * (other.shape[0] - 1) if strides else 0)
        _require(fits and offset >= 0 and end <= self.library.ggml_nbytes(self.handle), "set", self, other)
        graph = self._graph_with(other)
        source = cast(GGMLTensor, other)._dense().handle
        target = self._dense().handle
        if strides:
            handle = self.library.ggml_set_2d(graph.handle, target, source, strides[0], offset)
        else:
            handle = self.library.ggml_set_1d(graph.handle, target, source, offset)
        return self._result(graph, handle, self.shape, self.dtype)

    def copy(self, target: Tensor) -> GGMLTensor:
        _require(math.prod(self.shape) == math.prod(target.shape), "copy", self, target)
        graph = self._graph_with(target)
        handle = self.library.ggml_cpy(graph.handle, self.handle, cast(GGMLTensor, target).handle)
        return self._result(graph, handle, target.shape, target.dtype)

    def duplicate(self) -> GGMLTensor:
        return self._map(self.library.ggml_dup)

    def cast(self, dtype: DType) -> GGMLTensor:
        graph = self._graph_with()
        handle = self.library.ggml_cast(graph.handle, self.handle, type_id(dtype))
        return self._result(graph, handle, self.shape, dtype)

    # -- images ---------------------------------------------------------------------------------------

    def avg_pool_2d(self, kernel: int, stride: int, padding: float) -> GGMLTensor:
        _require(len(self.shape) >= 2 and kernel >= 1 and stride >= 1, "avg_pool_2d", self)
        graph = self._graph_with()
        sizes = (kernel, kernel, stride, stride)
        handle = self.library.ggml_pool_2d(
            graph.handle, self._dense().handle, _POOL_AVERAGE, *sizes, padding, padding
        )
        height, width = (int((size + 2 * padding - kernel) // stride) + 1 for size in self.shape[-2:])
        return self._result(graph, handle, (*self.shape[:-2], height, width), DType.F32)

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
        height, width = self._patches(images, stride, padding, dilation)
        graph = self._graph_with(images)
        operands = (self.handle, cast(GGMLTensor, images)._dense().handle)
        options = (*stride, *padding, *dilation, True, type_id(DType.F32))
        handle = self.library.ggml_im2col(graph.handle, *operands, *options)
        patch = math.prod(self.shape[1:])
        return self._result(graph, handle, (images.shape[0], height, width, patch), DType.F32)

    def _patches(
        self, images: Tensor, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
    ) -> tuple[int, int]:
        """Rows and columns of patches that this kernel meets; checks the operands."""
        fits = len(self.shape) == len(images.shape) == 4 and self.shape[1] == images.shape[1]
        _require(fits, "convolution", self, images)
        width, height = (
            (size + 2 * p - d * (kernel - 1) - 1) // s + 1
            for size, kernel, s, p, d in zip(
                images.shape[:1:-1], self.shape[:1:-1], stride, padding, dilation, strict=True
            )
        )
        _require(min(width, height) >= 1, "convolution", self, images)
        return height, width

    # -- attention ------------------------------------------------------------------------------------

    def rope(
        self, positions: Tensor, parameters: RopeParameters, factors: Tensor | None = None
    ) -> GGMLTensor:
        p = parameters
        multi = p.type in (RopeType.MULTI, RopeType.VISION, RopeType.INTERLEAVED_MULTI)
        fits = (
            len(self.shape) == 3
            and positions.shape == (self.shape[0] * (4 if multi else 1),)
            and positions.dtype is DType.I32
            and p.dimensions % 2 == 0
            and p.dimensions <= self.shape[-1]
            and (factors is None or factors.shape[0] >= p.dimensions // 2)
        )
        _require(fits, "rope", self, positions, *([factors] if factors is not None else []))
        graph = self._graph_with(positions)
        heads = self._dense_elements()
        operands = (heads.handle, cast(GGMLTensor, positions).handle)
        last = (p.base, 1.0 / p.scale, p.extrapolation, p.attention_factor, p.beta_fast, p.beta_slow)
        factor = 0 if factors is None else cast(GGMLTensor, factors).handle
        kind: tuple[int, ...] = (int(p.type), p.original_context)
        if multi:
            sections = (ctypes.c_int * 4)(*[*p.sections, 0, 0, 0, 0][:4])
            kind = (ctypes.addressof(sections), *kind)
        rope = self.library.ggml_rope_multi if multi else self.library.ggml_rope_ext
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
        fits = (
            len(self.shape) == len(key.shape) == len(value.shape) == 3
            and self.shape[-1] == key.shape[-1]
            and key.shape[:2] == value.shape[:2]
            and self.shape[1] % key.shape[1] == 0
            and (mask is None or (mask.shape == (self.shape[0], key.shape[0]) and mask.dtype is DType.F16))
        )
        _require(fits, "attention", self, key, value, *([mask] if mask is not None else []))
        query, keys, values = (
            cast(GGMLTensor, t).permute(1, 0, 2)._with_dense_elements() for t in (self, key, value)
        )
        mask_handle = 0 if mask is None else cast(GGMLTensor, mask).handle
        handle = self.library.ggml_flash_attn_ext(
            graph.handle, query.handle, keys.handle, values.handle, mask_handle, scale, 0.0, logit_softcap
        )
        self.library.ggml_flash_attn_ext_set_prec(handle, _PRECISION_F32)
        if sinks is not None:
            _require(sinks.shape == self.shape[1:2], "attention", self, sinks)
            self.library.ggml_flash_attn_ext_add_sinks(handle, cast(GGMLTensor, sinks).handle)
        return self._result(graph, handle, (*self.shape[:2], value.shape[-1]), DType.F32)
