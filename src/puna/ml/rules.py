"""Which operands fit which operation, and what shape comes out.

Pure functions over shapes and element types, for any backend. Each raises InvalidOption naming the operation
and its operands if they do not fit, so that nothing wrong reaches a library that would end the process.
"""

import math
from collections.abc import Sequence
from typing import Protocol

from puna.errors import InvalidOption
from puna.gguf import GGMLType
from puna.ml.dtype import DType
from puna.ml.rope import RopeParameters, RopeType

Shape = tuple[int, ...]

MAX_AXES = 4
FLOATS = (DType.F32, DType.F16, DType.BF16)
INTEGERS = (DType.I32, DType.I64)
PLAIN = (*FLOATS, *INTEGERS)


class Operand(Protocol):
    """What a rule looks at: sizes, slowest axis first, and the element type."""

    shape: Shape
    dtype: DType


def require(fits: bool, operation: str, *operands: Operand | None) -> None:
    """Raises InvalidOption naming the operation and the operands unless they fit."""
    if not fits:
        listed = ", ".join(f"{each.shape} {each.dtype.name}" for each in operands if each is not None)
        raise InvalidOption(f"{operation}: these tensors do not fit: {listed}")


def valid_shape(shape: Sequence[int], what: str = "a tensor") -> Shape:
    """`shape` as a tuple: one to four axes, no size below 1."""
    if not 1 <= len(shape) <= MAX_AXES or min(shape) < 1:
        raise InvalidOption(
            f"{what} cannot have shape {tuple(shape)}: one to four axes of at least 1 element"
        )
    return tuple(int(size) for size in shape)


def whole_blocks(type_: GGMLType, shape: Sequence[int]) -> None:
    """The last axis is a whole number of the type's blocks."""
    if shape[-1] % type_.block_size:
        raise InvalidOption(
            f"rows of {shape[-1]} elements are not a multiple of {type_.name}'s block of {type_.block_size}"
        )


def axis_of(shape: Shape, axis: int) -> int:
    """`axis` counted from the first; negative ones count from the last."""
    if not -len(shape) <= axis < len(shape):
        raise InvalidOption(f"a tensor of shape {shape} has no axis {axis}")
    return axis % len(shape)


def repeats_to(small: Sequence[int], large: Sequence[int]) -> bool:
    """Whether `small`, aligned at the last axis, can be repeated to fill `large`."""
    extra = max(0, len(small) - len(large))
    if math.prod(small[:extra]) != 1:
        return False
    return all(b % a == 0 for a, b in zip(reversed(small[extra:]), reversed(large), strict=False))


# -- element by element, along the last axis ---------------------------------------------------------------


def elements(operation: str, operand: Operand) -> None:
    """Operations on the elements themselves are made for F32."""
    require(operand.dtype is DType.F32, operation, operand)


def arithmetic(operation: str, operand: Operand, other: Operand) -> None:
    """F32 both; `other` repeats."""
    fits = operand.dtype is other.dtype is DType.F32 and repeats_to(other.shape, operand.shape)
    require(fits, operation, operand, other)


def gated(operation: str, gate: Operand, up: Operand) -> None:
    """F32 both, of one shape."""
    require(gate.dtype is up.dtype is DType.F32 and gate.shape == up.shape, operation, gate, up)


def softmax(scores: Operand, mask: Operand | None, sinks: Operand | None) -> None:
    """Scores F32 (…, R, C), mask F32 or F16 (R, C) or (1, R, C), sinks F32 (H,) for scores (H, R, C)."""
    fits = scores.dtype is DType.F32
    if mask is not None:
        rows_and_columns = len(mask.shape) >= 2 and mask.shape[-2:] == scores.shape[-2:]
        fits &= rows_and_columns and math.prod(mask.shape[:-2]) == 1 and mask.dtype in (DType.F32, DType.F16)
    if sinks is not None:
        fits &= len(scores.shape) == 3 and sinks.shape == scores.shape[:1] and sinks.dtype is DType.F32
    require(fits, "softmax", scores, mask, sinks)


def top_k(operand: Operand, k: int) -> Shape:
    """(…, n) gives (…, k)."""
    require(operand.dtype is DType.F32 and 1 <= k <= operand.shape[-1], f"top_k({k})", operand)
    return (*operand.shape[:-1], k)


# -- shape -------------------------------------------------------------------------------------------------


def reshape(shape: Shape, target: Sequence[int]) -> Shape:
    """`target` with its -1, if any, replaced so that the number of elements stays the same."""
    total = math.prod(shape)
    known = math.prod(size for size in target if size != -1)
    if list(target).count(-1) == 1 and known > 0 and total % known == 0:
        target = [total // known if size == -1 else size for size in target]
    if not 1 <= len(target) <= MAX_AXES or min(target) < 1 or math.prod(target) != total:
        raise InvalidOption(f"a tensor of shape {shape} cannot be reshaped to {tuple(target)}")
    return tuple(target)


def extent(type_: GGMLType, shape: Shape, strides: Sequence[int]) -> int:
    """Bytes from the first to the end of the last element; the last stride is per block."""
    counts = (*shape[:-1], shape[-1] // type_.block_size)
    steps = sum((count - 1) * stride for count, stride in zip(counts, strides, strict=True))
    return steps + type_.type_size


def dense_strides(type_: GGMLType, shape: Sequence[int]) -> Shape:
    """Bytes per step along each axis when nothing lies between the elements; the last: per block."""
    row = type_.nbytes(shape[-1:])
    outer = [row * math.prod(shape[axis + 1 : -1]) for axis in range(len(shape) - 1)]
    return (*outer, type_.type_size)


def view(type_: GGMLType, room: int, offset: int, shape: Sequence[int], strides: Sequence[int]) -> Shape:
    """The strides of a window that lies in `room` bytes; `strides` are those of all axes but the last."""
    shape = valid_shape(shape, "a view")
    whole_blocks(type_, shape)
    every = (*strides, type_.type_size) if strides else dense_strides(type_, shape)
    if len(every) != len(shape) or min(every) < 0:
        raise InvalidOption(f"a view of shape {shape} cannot have strides {tuple(strides)}")
    end = offset + max(extent(type_, shape, every), type_.nbytes(shape))
    if offset < 0 or offset % type_.type_size or end > room:
        raise InvalidOption(f"a view of bytes {offset} to {end} does not fit a tensor of {room} bytes")
    return every


def permute(operand: Operand, axes: Sequence[int]) -> Shape:
    """Sizes after the axes are put in the order `axes`; the last axis of block types stays the last."""
    count = len(operand.shape)
    fits = sorted(axes) == list(range(count)) and (operand.dtype in PLAIN or axes[-1] == count - 1)
    require(fits, f"permute{tuple(axes)}", operand)
    return tuple(operand.shape[axis] for axis in axes)


def pad(operand: Operand, counts: Sequence[int]) -> Shape:
    """Sizes after `counts` zeros are appended to the axes; F32."""
    fits = len(counts) == len(operand.shape) and min(counts) >= 0 and operand.dtype is DType.F32
    require(fits, f"pad{tuple(counts)}", operand)
    return tuple(size + count for size, count in zip(operand.shape, counts, strict=True))


def repeat(operand: Operand, axis: int, n: int) -> Shape:
    """Sizes after `n` copies along `axis`; F32, F16 or I32."""
    shape, axis = operand.shape, axis_of(operand.shape, axis)
    require(n >= 1 and operand.dtype in (DType.F32, DType.F16, DType.I32), f"repeat({axis}, {n})", operand)
    return (*shape[:axis], shape[axis] * n, *shape[axis + 1 :])


def concat(first: Operand, second: Operand, axis: int) -> Shape:
    """Sizes after `second` is appended along `axis`; of one type, not I64 and not a block type."""
    shape, other, axis = first.shape, second.shape, axis_of(first.shape, axis)
    fits = (
        first.dtype is second.dtype
        and first.dtype in (*FLOATS, DType.I32)
        and len(shape) == len(other)
        and shape[:axis] == other[:axis]
        and shape[axis + 1 :] == other[axis + 1 :]
    )
    require(fits, f"concat along axis {axis}", first, second)
    return (*shape[:axis], shape[axis] + other[axis], *shape[axis + 1 :])


def converts(operand: Operand, dtype: DType) -> None:
    """Between plain floating-point types, from those to any other, and from any other to F32; not I64."""
    if operand.dtype is dtype:
        return
    fits = operand.dtype in FLOATS if dtype in FLOATS else operand.dtype is DType.F32
    fits |= dtype is DType.F32 and operand.dtype is not DType.I64
    require(fits and dtype not in (DType.I64, DType.OTHER), f"conversion to {dtype.name}", operand)


def copy(operand: Operand, target: Operand) -> None:
    """As many elements, of types that convert."""
    require(math.prod(operand.shape) == math.prod(target.shape), "copy", operand, target)
    converts(operand, target.dtype)


def set_region(operand: Operand, other: Operand, strides: Sequence[int]) -> None:
    """A vector without strides, or a matrix with one, of this tensor's type; F32 or I32."""
    fits = operand.dtype is other.dtype and operand.dtype in (DType.F32, DType.I32)
    require(fits and len(other.shape) == 1 + len(strides) <= 2, "set", operand, other)


def rows(table: Operand, ids: Operand) -> Shape:
    """(…, R, K) and I32 (…, N) give (…, N, K)."""
    fits = len(table.shape) >= 2 and ids.shape[:-1] == table.shape[:-2] and table.dtype is not DType.I64
    require(fits and ids.dtype is DType.I32, "rows", table, ids)
    return (*ids.shape, table.shape[-1])


def set_rows(table: Operand, values: Operand, ids: Operand) -> None:
    """(R, K) of any type but integers, F32 (N, K), and I32 or I64 (N,)."""
    fits = (
        len(table.shape) == len(values.shape) == 2
        and table.shape[1] == values.shape[1]
        and ids.shape == values.shape[:1]
        and table.dtype not in (*INTEGERS, DType.OTHER)
        and values.dtype is DType.F32
        and ids.dtype in INTEGERS
    )
    require(fits, "set_rows", table, values, ids)


# -- matrices, attention -----------------------------------------------------------------------------------


def mul_mat(matrix: Operand, vectors: Operand) -> Shape:
    """(…, M, K) of any type but integers and F32 (…, N, K) give (…, N, M)."""
    fits = (
        matrix.shape[-1] == vectors.shape[-1]
        and repeats_to(matrix.shape[:-2], vectors.shape[:-2])
        and matrix.dtype not in INTEGERS
        and vectors.dtype is DType.F32
    )
    require(fits, "mul_mat", matrix, vectors)
    return (*vectors.shape[:-1], matrix.shape[-2] if len(matrix.shape) > 1 else 1)


def mul_mat_id(experts: Operand, vectors: Operand, ids: Operand) -> Shape:
    """(E, M, K) of any type but integers, F32 (T, 1 or a divisor of U, K) and I32 (T, U) give (T, U, M)."""
    fits = (
        len(experts.shape) == len(vectors.shape) == 3
        and len(ids.shape) == 2
        and vectors.shape[0] == ids.shape[0]
        and vectors.shape[2] == experts.shape[2]
        and ids.shape[1] % vectors.shape[1] == 0
        and experts.dtype not in INTEGERS
        and vectors.dtype is DType.F32
        and ids.dtype is DType.I32
    )
    require(fits, "mul_mat_id", experts, vectors, ids)
    return (*ids.shape, experts.shape[1])


def add_id(operand: Operand, bias: Operand, ids: Operand) -> None:
    """F32 (T, U, M) and (E, M), I32 (T, U)."""
    fits = (
        len(operand.shape) == 3
        and len(bias.shape) == 2
        and bias.shape[1] == operand.shape[2]
        and ids.shape == operand.shape[:2]
        and operand.dtype is bias.dtype is DType.F32
        and ids.dtype is DType.I32
    )
    require(fits, "add_id", operand, bias, ids)


def rope(heads: Operand, positions: Operand, parameters: RopeParameters, factors: Operand | None) -> None:
    """F32 (tokens, heads, head_size), I32 positions per token and section, F32 factors per pair."""
    dimensions, type_, sections = parameters.dimensions, parameters.type, parameters.sections
    if type_.is_multi and (sum(sections[:3]) < 1 or len(sections) > type_.positions or min(sections) < 0):
        raise InvalidOption(f"rope of type {type_.name} cannot have sections {sections}")
    fits = (
        len(heads.shape) == 3
        and heads.dtype is DType.F32
        and positions.shape == (heads.shape[0] * type_.positions,)
        and positions.dtype is DType.I32
        and 2 <= dimensions <= heads.shape[2]
        and dimensions % 2 == 0
        and (type_ is not RopeType.VISION or 2 * dimensions == heads.shape[2])
    )
    if factors is not None:
        fits &= len(factors.shape) == 1 and factors.shape[0] >= dimensions // 2 and factors.dtype is DType.F32
    require(fits, f"rope of {dimensions} dimensions", heads, positions, factors)


def attention(
    query: Operand, key: Operand, value: Operand, mask: Operand | None, sinks: Operand | None
) -> Shape:
    """F32 (T, H, D), (C, G, D), (C, G, V), mask (T, C), F32 sinks (H,) give (T, H, V); G divides H."""
    fits = (
        len(query.shape) == len(key.shape) == len(value.shape) == 3
        and query.shape[2] == key.shape[2]
        and key.shape[:2] == value.shape[:2]
        and query.shape[1] % key.shape[1] == 0
        and query.dtype is DType.F32
        and not {key.dtype, value.dtype} & {*INTEGERS, DType.OTHER}
    )
    if mask is not None:
        fits &= mask.shape == (query.shape[0], key.shape[0]) and mask.dtype in (DType.F32, DType.F16)
    if sinks is not None:
        fits &= sinks.shape == query.shape[1:2] and sinks.dtype is DType.F32
    require(fits, "attention", query, key, value, mask, sinks)
    return (*query.shape[:2], value.shape[2])


# -- states ------------------------------------------------------------------------------------------------


def ssm_conv(operand: Operand, kernel: Operand) -> Shape:
    """F32 (N, C, taps - 1 + T) and (C, taps) give (N, T, C)."""
    fits = (
        len(operand.shape) == 3
        and len(kernel.shape) == 2
        and operand.shape[1] == kernel.shape[0]
        and operand.shape[2] >= kernel.shape[1]
        and operand.dtype is kernel.dtype is DType.F32
    )
    require(fits, "ssm_conv", operand, kernel)
    return (operand.shape[0], operand.shape[2] - kernel.shape[1] + 1, operand.shape[1])


def gated_delta_net(
    query: Operand, key: Operand, value: Operand, decay: Operand, rate: Operand, state: Operand
) -> None:
    """F32 (N, T, G, D) twice, (N, T, H, D), (N, T, H) twice and (N, H, D, D); G divides H."""
    fits = len(query.shape) == len(value.shape) == 4 and all(
        each.dtype is DType.F32 for each in (query, key, value, decay, rate, state)
    )
    if fits:
        sequences, tokens, heads, size = value.shape
        fits = (
            query.shape == key.shape == (sequences, tokens, query.shape[2], size)
            and heads % query.shape[2] == 0
            and decay.shape == rate.shape == (sequences, tokens, heads)
            and state.shape == (sequences, heads, size, size)
        )
    require(fits, "gated_delta_net", query, key, value, decay, rate, state)


# -- images ------------------------------------------------------------------------------------------------


def pool(operand: Operand, kernel: int, stride: int, padding: float) -> Shape:
    """Sizes after windows of `kernel` slide over the last two axes; F32."""
    shape, operation = operand.shape, f"avg_pool_2d({kernel}, {stride}, {padding})"
    fits = len(shape) >= 2 and operand.dtype is DType.F32 and min(kernel, stride) >= 1 and padding >= 0
    require(fits, operation, operand)
    sizes = tuple(int((size + 2 * padding - kernel) // stride) + 1 for size in shape[-2:])
    require(min(sizes) >= 1, operation, operand)
    return (*shape[:-2], *sizes)


def patches(
    kernel: Operand, images: Operand, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[int, int]:
    """Rows and columns of patches of `images`, F32 (N, C, H, W), that `kernel` (O, C, KH, KW) meets.

    The pairs are (along width, along height).
    """
    operation = f"convolution with stride {stride}, padding {padding}, dilation {dilation}"
    fits = len(kernel.shape) == len(images.shape) == 4 and kernel.shape[1] == images.shape[1]
    fits &= images.dtype is DType.F32 and kernel.dtype not in INTEGERS
    require(fits and min(*stride, *dilation) >= 1 and min(padding) >= 0, operation, kernel, images)
    spans = [dilation[i] * (kernel.shape[3 - i] - 1) + 1 for i in (0, 1)]
    width, height = ((images.shape[3 - i] + 2 * padding[i] - spans[i]) // stride[i] + 1 for i in (0, 1))
    require(min(width, height) >= 1, operation, kernel, images)
    return height, width
