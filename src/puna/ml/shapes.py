"""Which shapes fit which operation, and what shape comes out.

Pure functions over sizes, slowest axis first, for any backend. Each raises InvalidOption with the operation
and the shapes if they do not fit, so that nothing wrong reaches a library that would end the process.
"""

import math
from collections.abc import Sequence

from puna.errors import InvalidOption
from puna.gguf import GGMLType
from puna.ml.rope import RopeParameters, RopeType

Shape = tuple[int, ...]

MAX_AXES = 4


def require(fits: bool, operation: str, *shapes: Sequence[int]) -> None:
    """Raises InvalidOption naming the operation and the shapes unless they fit."""
    if not fits:
        listed = " and ".join(str(tuple(shape)) for shape in shapes)
        raise InvalidOption(f"{operation}: shapes {listed} do not fit")


def valid(shape: Sequence[int], what: str = "a tensor") -> Shape:
    """`shape` as a tuple: one to four axes, no size below 1."""
    if not 1 <= len(shape) <= MAX_AXES or min(shape) < 1:
        raise InvalidOption(
            f"{what} cannot have shape {tuple(shape)}: one to four axes of at least 1 element"
        )
    return tuple(int(size) for size in shape)


def require_whole_blocks(type_: GGMLType, shape: Sequence[int]) -> None:
    """Raises InvalidOption unless the last axis is a whole number of the type's blocks."""
    if shape[-1] % type_.block_size:
        raise InvalidOption(
            f"rows of {shape[-1]} elements are not a multiple of {type_.name}'s block of {type_.block_size}"
        )


def axis_of(shape: Shape, axis: int, operation: str) -> int:
    """`axis` counted from the first; negative ones count from the last."""
    if not -len(shape) <= axis < len(shape):
        raise InvalidOption(f"{operation}: shape {shape} has no axis {axis}")
    return axis % len(shape)


def repeats_to(small: Sequence[int], large: Sequence[int]) -> bool:
    """Whether `small`, aligned at the last axis, can be repeated to fill `large`."""
    extra = max(0, len(small) - len(large))
    if math.prod(small[:extra]) != 1:
        return False
    return all(b % a == 0 for a, b in zip(reversed(small[extra:]), reversed(large), strict=False))


def reshape(shape: Shape, target: Sequence[int]) -> Shape:
    """`target` with its -1, if any, replaced so that the number of elements stays the same."""
    total = math.prod(shape)
    known = math.prod(size for size in target if size != -1)
    if list(target).count(-1) == 1 and known > 0 and total % known == 0:
        target = [total // known if size == -1 else size for size in target]
    if not 1 <= len(target) <= MAX_AXES or min(target) < 1 or math.prod(target) != total:
        raise InvalidOption(f"a tensor of shape {shape} cannot be reshaped to {tuple(target)}")
    return tuple(target)


def permute(shape: Shape, axes: Sequence[int]) -> Shape:
    """Sizes after the axes are put in the order `axes`."""
    require(sorted(axes) == list(range(len(shape))), f"permute{tuple(axes)}", shape)
    return tuple(shape[axis] for axis in axes)


def pad(shape: Shape, counts: Sequence[int]) -> Shape:
    """Sizes after `counts` zeros are appended to the axes."""
    require(len(counts) == len(shape) and min(counts) >= 0, f"pad{tuple(counts)}", shape)
    return tuple(size + count for size, count in zip(shape, counts, strict=True))


def repeat(shape: Shape, axis: int, n: int) -> Shape:
    """Sizes after `n` copies along `axis`."""
    axis = axis_of(shape, axis, "repeat")
    require(n >= 1, f"repeat({axis}, {n})", shape)
    return (*shape[:axis], shape[axis] * n, *shape[axis + 1 :])


def concat(shape: Shape, other: Shape, axis: int) -> Shape:
    """Sizes after `other` is appended along `axis`."""
    axis = axis_of(shape, axis, "concat")
    same_rank = len(shape) == len(other)
    fits = same_rank and shape[:axis] == other[:axis] and shape[axis + 1 :] == other[axis + 1 :]
    require(fits, f"concat along axis {axis}", shape, other)
    return (*shape[:axis], shape[axis] + other[axis], *shape[axis + 1 :])


def mul_mat(matrix: Shape, vectors: Shape) -> Shape:
    """(…, M, K) and (…, N, K) give (…, N, M)."""
    fits = matrix[-1] == vectors[-1] and repeats_to(matrix[:-2], vectors[:-2])
    require(fits, "mul_mat", matrix, vectors)
    return (*vectors[:-1], matrix[-2] if len(matrix) > 1 else 1)


def mul_mat_id(experts: Shape, vectors: Shape, ids: Shape) -> Shape:
    """(E, M, K), (T, 1 or a divisor of U, K) and (T, U) give (T, U, M)."""
    fits = (
        len(experts) == len(vectors) == 3
        and len(ids) == 2
        and vectors[0] == ids[0]
        and vectors[2] == experts[2]
        and ids[1] % vectors[1] == 0
    )
    require(fits, "mul_mat_id", experts, vectors, ids)
    return (*ids, experts[1])


def add_id(rows: Shape, bias: Shape, ids: Shape) -> Shape:
    """(T, U, M), (E, M) and (T, U) give (T, U, M)."""
    fits = len(rows) == 3 and len(bias) == 2 and bias[1] == rows[2] and ids == rows[:2]
    require(fits, "add_id", rows, bias, ids)
    return rows


def rows(table: Shape, ids: Shape) -> Shape:
    """(…, R, K) and (…, N) give (…, N, K)."""
    require(len(table) >= 2 and ids[:-1] == table[:-2], "rows", table, ids)
    return (*ids, table[-1])


def set_rows(table: Shape, values: Shape, ids: Shape) -> Shape:
    """(R, K), (N, K) and (N,) give (R, K)."""
    fits = len(table) == len(values) == 2 and table[1] == values[1] and ids == values[:1]
    require(fits, "set_rows", table, values, ids)
    return table


def softmax(scores: Shape, mask: Shape | None, sinks: Shape | None) -> Shape:
    """Scores (…, R, C), a mask (R, C) or (1, R, C), sinks (H,) where the scores are (H, R, C)."""
    if mask is not None:
        fits = mask[-2:] == scores[-2:] and len(mask) >= 2 and math.prod(mask[:-2]) == 1
        require(fits, "softmax with a mask", scores, mask)
    if sinks is not None:
        require(len(scores) == 3 and sinks == scores[:1], "softmax with sinks", scores, sinks)
    return scores


def rope(heads: Shape, positions: Shape, parameters: RopeParameters, factors: Shape | None) -> Shape:
    """(tokens, heads, head_size), a position per token and section, a factor per pair of dimensions."""
    dimensions, type_ = parameters.dimensions, parameters.type
    sections = parameters.sections
    if type_.is_multi and (sum(sections[:3]) < 1 or len(sections) > type_.positions or min(sections) < 0):
        raise InvalidOption(f"rope of type {type_.name} cannot have sections {sections}")
    fits = (
        len(heads) == 3
        and positions == (heads[0] * type_.positions,)
        and 2 <= dimensions <= heads[2]
        and dimensions % 2 == 0
        and (type_ is not RopeType.VISION or 2 * dimensions == heads[2])
        and (factors is None or (len(factors) == 1 and factors[0] >= dimensions // 2))
    )
    require(fits, f"rope of {dimensions} dimensions", heads, positions, *([factors] if factors else []))
    return heads


def attention(query: Shape, key: Shape, value: Shape, mask: Shape | None, sinks: Shape | None) -> Shape:
    """(T, H, D), (C, G, D), (C, G, V), mask (T, C) and sinks (H,) give (T, H, V); G divides H."""
    fits = (
        len(query) == len(key) == len(value) == 3
        and query[2] == key[2]
        and key[:2] == value[:2]
        and query[1] % key[1] == 0
        and mask in (None, (query[0], key[0]))
        and sinks in (None, (query[1],))
    )
    require(fits, "attention", query, key, value, *(shape for shape in (mask, sinks) if shape))
    return (*query[:2], value[2])


def pool(shape: Shape, kernel: int, stride: int, padding: float) -> Shape:
    """Sizes after windows of `kernel` slide over the last two axes."""
    operation = f"avg_pool_2d({kernel}, {stride}, {padding})"
    require(len(shape) >= 2 and kernel >= 1 and stride >= 1 and padding >= 0, operation, shape)
    sizes = tuple(int((size + 2 * padding - kernel) // stride) + 1 for size in shape[-2:])
    require(min(sizes) >= 1, operation, shape)
    return (*shape[:-2], *sizes)


def patches(
    kernel: Shape, images: Shape, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int]:
    """Rows and columns of patches of `images` (N, C, H, W) that `kernel` (O, C, KH, KW) meets.

    The pairs are (along width, along height).
    """
    steps = f"convolution with stride {stride}, padding {padding}, dilation {dilation}"
    fits = len(kernel) == len(images) == 4 and kernel[1] == images[1]
    require(fits and min(*stride, *dilation) >= 1 and min(padding) >= 0, steps, kernel, images)
    width, height = (
        (images[3 - i] + 2 * padding[i] - dilation[i] * (kernel[3 - i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    )
    require(min(width, height) >= 1, steps, kernel, images)
    return height, width
