"""Tensor: the operations that models are written in.

Axis order is NumPy's: the slowest-varying axis first, the contiguous one last. A matrix of M rows of K
elements has shape (M, K), a batch of token vectors (tokens, hidden), attention heads
(tokens, heads, head_size). Up to four axes. ggml counts axes the other way round; that is reversed once,
inside its backend, and nowhere else.

A tensor that was made in a context carries it, and a result belongs to the context of its operands.
Weights and caches carry none. All operations are pure: none changes its operand, except `set_rows` and
`copy`, whose purpose is to write into storage.

The abstract methods below are the primitives a backend must have. The others are derived from them here;
a backend may replace a derived one by a fused kernel, and the definition here is then its test.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from puna.errors import InvalidOption
from puna.ml import rules
from puna.ml.array import Array, Floats
from puna.ml.dtype import DType
from puna.ml.rope import RopeParameters

if TYPE_CHECKING:
    from puna.ml.context import Context


class Tensor(ABC):
    """An array on a device, or the promise of one; see the module's text.

    Attributes:
        shape: sizes of the axes, slowest first.
        dtype: element type.
    """

    __slots__ = ("dtype", "shape")

    shape: tuple[int, ...]
    dtype: DType

    # -- what it is -----------------------------------------------------------------------------------

    def dim(self, axis: int) -> int:
        """Size of an axis; negative axes count from the last."""
        return self.shape[axis]

    @abstractmethod
    def stride(self, axis: int) -> int:
        """Bytes from one element to the next along an axis. Block types: along the last, per block."""

    @abstractmethod
    def on(self, context: Context) -> Tensor:
        """The same weight or storage as an operand in `context`, to start an expression with it."""

    @abstractmethod
    def readable(self) -> bool:
        """Whether the elements can be read now; see `tobytes`."""

    @abstractmethod
    def tobytes(self) -> bytes:
        """The elements as they lie in memory, in row-major order of `shape`.

        Readable are inputs, storage, weights that were not rearranged for the processor, and results that
        were given to `compute`, until another context computes.

        Raises:
            BackendError: there is nothing to read yet.
        """

    @abstractmethod
    def floats(self) -> Floats:
        """A copy of the elements as float32 in `shape`; block types and F16 are converted. See `tobytes`."""

    @abstractmethod
    def array(self) -> Array:
        """The elements in `shape` without a copy, where they lie in system memory, else a copy.

        F32, F16, I32 and I64 only. For an input this is the live memory: what is written into it is what
        the next `compute` uses.

        Raises:
            BackendError: nothing to read yet, or an element type that NumPy has not.
        """

    @abstractmethod
    def write(self, values: Array) -> None:
        """Replaces the content of an input or of storage; `values` has as many elements, of the same type.

        Raises:
            InvalidOption: the sizes differ.
        """

    # -- element by element ---------------------------------------------------------------------------

    @abstractmethod
    def neg(self) -> Tensor:
        """-x"""

    @abstractmethod
    def exp(self) -> Tensor:
        """e to the power of x"""

    @abstractmethod
    def sin(self) -> Tensor:
        """Sine, x in radians."""

    @abstractmethod
    def cos(self) -> Tensor:
        """Cosine, x in radians."""

    @abstractmethod
    def sqr(self) -> Tensor:
        """x * x"""

    @abstractmethod
    def sqrt(self) -> Tensor:
        """Square root."""

    @abstractmethod
    def tanh(self) -> Tensor:
        """Hyperbolic tangent."""

    @abstractmethod
    def sigmoid(self) -> Tensor:
        """1 / (1 + e^-x)"""

    @abstractmethod
    def softplus(self) -> Tensor:
        """log(1 + e^x)"""

    @abstractmethod
    def relu(self) -> Tensor:
        """max(x, 0)"""

    @abstractmethod
    def gelu(self) -> Tensor:
        """x * Phi(x) in its tanh approximation (Hendrycks and Gimpel, arXiv:1606.08415)."""

    @abstractmethod
    def gelu_erf(self) -> Tensor:
        """x * Phi(x), exact."""

    def silu(self) -> Tensor:
        """x * sigmoid(x), also called swish."""
        return self * self.sigmoid()

    def quick_gelu(self) -> Tensor:
        """x * sigmoid(1.702 x), CLIP's approximation of GELU."""
        return self * self.scale(1.702).sigmoid()

    @abstractmethod
    def scale(self, factor: float, bias: float = 0.0) -> Tensor:
        """x * factor + bias"""

    @abstractmethod
    def clamp(self, minimum: float, maximum: float) -> Tensor:
        """Each element limited to [minimum, maximum]."""

    @abstractmethod
    def add(self, other: Tensor) -> Tensor:
        """Sum. `other` is repeated along axes where its size is 1 or divides the size of this tensor's."""

    @abstractmethod
    def sub(self, other: Tensor) -> Tensor:
        """Difference; `other` is repeated as in `add`."""

    @abstractmethod
    def mul(self, other: Tensor) -> Tensor:
        """Product, element by element; `other` is repeated as in `add`."""

    @abstractmethod
    def div(self, other: Tensor) -> Tensor:
        """Quotient; `other` is repeated as in `add`."""

    def __neg__(self) -> Tensor:
        return self.neg()

    def __add__(self, other: Tensor) -> Tensor:
        return self.add(other)

    def __sub__(self, other: Tensor) -> Tensor:
        return self.sub(other)

    def __mul__(self, other: Tensor | float) -> Tensor:
        return self.mul(other) if isinstance(other, Tensor) else self.scale(other)

    def __truediv__(self, other: Tensor) -> Tensor:
        return self.div(other)

    def swiglu(self, up: Tensor) -> Tensor:
        """silu(self) * up; Shazeer, arXiv:2002.05202."""
        rules.gated("swiglu", self, up)
        return self.silu() * up

    def geglu(self, up: Tensor) -> Tensor:
        """gelu(self) * up; Shazeer, arXiv:2002.05202."""
        rules.gated("geglu", self, up)
        return self.gelu() * up

    def reglu(self, up: Tensor) -> Tensor:
        """relu(self) * up; Shazeer, arXiv:2002.05202."""
        rules.gated("reglu", self, up)
        return self.relu() * up

    def swiglu_oai(self, up: Tensor, alpha: float, limit: float) -> Tensor:
        """The gate of gpt-oss: g * sigmoid(alpha g) * (up + 1) with g <= limit and |up| <= limit."""
        rules.gated("swiglu_oai", self, up)
        gate = self.clamp(-math.inf, limit)
        return gate * gate.scale(alpha).sigmoid() * up.clamp(-limit, limit).scale(1.0, 1.0)

    # -- matrices -------------------------------------------------------------------------------------

    @abstractmethod
    def mul_mat(self, other: Tensor) -> Tensor:
        """other @ self^T: rows (…, M, K) times vectors `other` (…, N, K) → F32 (…, N, M).

        Leading axes of this tensor are repeated to those of `other` where they divide them.
        """

    @abstractmethod
    def mul_mat_full_prec(self, other: Tensor) -> Tensor:
        """`mul_mat` that accumulates in F32 on every device."""

    @abstractmethod
    def mul_mat_id(self, other: Tensor, ids: Tensor) -> Tensor:
        """Products with chosen matrices: self (E, M, K), other (T, 1 or U, K), ids I32 (T, U) → (T, U, M).

        Row t, u of the result is self[ids[t, u]] @ other[t, u]; experts of a mixture.
        """

    def add_id(self, bias: Tensor, ids: Tensor) -> Tensor:
        """self (T, U, M) plus the rows of `bias` (E, M) that `ids`, I32 (T, U), names."""
        rules.add_id(self, bias, ids)
        tokens, used, width = self.shape
        rows = bias.rows(ids.reshape(tokens * used))
        return self + rows.reshape(tokens, used, width)

    # -- along the last axis --------------------------------------------------------------------------

    @abstractmethod
    def softmax(self, mask: Tensor | None = None, scale: float = 1.0, sinks: Tensor | None = None) -> Tensor:
        """softmax(self * scale + mask) over the last axis.

        Args:
            mask: F32 or F16 (rows, columns) or (1, rows, columns), added to each leading slice.
            sinks: F32 (heads,): per slice of axis 0 … of 3 axes one more logit that takes its share of the
                sum and is then dropped (gpt-oss).
        """

    @abstractmethod
    def norm(self, eps: float) -> Tensor:
        """(x - mean) / sqrt(variance + eps) over the last axis."""

    def layer_norm(self, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        """`norm`, times `weight` if given, plus `bias` if given; Ba et al., arXiv:1607.06450."""
        result = self.norm(eps)
        if weight is not None:
            result = result * weight
        return result if bias is None else result + bias

    def rms_norm(self, weight: Tensor | None, eps: float) -> Tensor:
        """x / sqrt(mean(x²) + eps) over the last axis, times `weight` if given; arXiv:1910.07467."""
        result = self / self.sqr().mean().scale(1.0, eps).sqrt()
        return result if weight is None else result * weight

    def l2_norm(self, eps: float) -> Tensor:
        """x / max(|x|, eps) over the last axis."""
        return self / self.sqr().sum_rows().sqrt().clamp(eps, math.inf)

    @abstractmethod
    def sum_rows(self) -> Tensor:
        """Sum over the last axis, which becomes 1."""

    @abstractmethod
    def mean(self) -> Tensor:
        """Mean over the last axis, which becomes 1."""

    def variance(self) -> Tensor:
        """Population variance over the last axis, which becomes 1."""
        return (self - self.mean()).sqr().sum_rows().scale(1.0 / self.dim(-1))

    def stddev(self) -> Tensor:
        """Square root of `variance`."""
        return self.variance().sqrt()

    @abstractmethod
    def argsort(self) -> Tensor:
        """Positions that sort the last axis ascending, I32; of F32 only."""

    @abstractmethod
    def top_k(self, k: int) -> Tensor:
        """Positions of the k largest elements of the last axis, largest first, I32 (…, k)."""

    # -- shape ----------------------------------------------------------------------------------------

    @abstractmethod
    def reshape(self, *shape: int) -> Tensor:
        """The same elements in another shape; one size may be -1. Copies if not contiguous.

        Raises:
            InvalidOption: the number of elements differs.
        """

    @abstractmethod
    def view(self, offset: int, shape: Sequence[int], strides: Sequence[int] = ()) -> Tensor:
        """A window into this tensor's memory.

        Args:
            offset: bytes from this tensor's start.
            shape: sizes, slowest axis first.
            strides: bytes per step for every axis but the last, which is contiguous; dense if left out.

        Raises:
            InvalidOption: it leaves this tensor, or its elements would overlap so much that they take more
                than what lies behind the offset.
        """

    @abstractmethod
    def permute(self, *axes: int) -> Tensor:
        """Axes in another order, without a copy: result.shape[i] = self.shape[axes[i]] (numpy.transpose)."""

    @abstractmethod
    def contiguous(self, *shape: int) -> Tensor:
        """A dense copy in row-major order, reshaped if a shape is given."""

    @abstractmethod
    def pad(self, *counts: int) -> Tensor:
        """Zeros appended to each axis, as many as `counts` says, slowest axis first; none is negative."""

    @abstractmethod
    def repeat(self, axis: int, n: int) -> Tensor:
        """n copies one after the other along `axis`."""

    @abstractmethod
    def concat(self, other: Tensor, axis: int) -> Tensor:
        """`other` appended along `axis`; all other sizes are equal."""

    def stack(self, axis: int, *others: Tensor) -> Tensor:
        """This and `others` appended one after the other along `axis`."""
        result = self
        for other in others:
            result = result.concat(other, axis)
        return result

    @abstractmethod
    def rows(self, ids: Tensor) -> Tensor:
        """Rows by number: self (…, R, K), ids I32 (…, N) → F32 (…, N, K); block types are converted."""

    @abstractmethod
    def set_rows(self, values: Tensor, ids: Tensor) -> Tensor:
        """Writes rows: self[ids[n]] = values[n], converted to this tensor's type; returns this tensor.

        Takes effect when `forward` names the result; self (R, K), values F32 (N, K), ids I64 or I32 (N,).
        """

    @abstractmethod
    def set(self, other: Tensor, offset: int, *strides: int) -> Tensor:
        """A copy in which the bytes from `offset` on are `other`, a vector, or a matrix whose rows lie
        `strides[0]` bytes apart."""

    @abstractmethod
    def copy(self, target: Tensor) -> Tensor:
        """Writes the elements into `target`, converting the type; the result stands for `target`."""

    @abstractmethod
    def duplicate(self) -> Tensor:
        """A copy."""

    @abstractmethod
    def cast(self, dtype: DType) -> Tensor:
        """The elements in another type: to or from F32."""

    def slice(self, axis: int, low: int, high: int, step: int = 1) -> Tensor:
        """Elements low, low + step, … below high of one axis; no copy, but for steps along the last axis.

        Raises:
            InvalidOption: the range is empty or not inside the axis.
        """
        axis = rules.axis_of(self.shape, axis)
        if not 0 <= low < high <= self.shape[axis] or step < 1:
            raise InvalidOption(f"slice {low}:{high}:{step} is not inside axis {axis} of shape {self.shape}")
        is_last = axis == len(self.shape) - 1
        if is_last and self.dtype not in rules.PLAIN:
            raise InvalidOption(f"type {self.dtype.name} lies in blocks along the last axis: no slices of it")
        if step > 1 and is_last:
            return self._every(low, high, step)
        shape, strides = list(self.shape), [self.stride(a) for a in range(len(self.shape) - 1)]
        offset = low * self.stride(axis)
        shape[axis] = -(-(high - low) // step)
        if axis < len(strides):
            strides[axis] *= step
        return self.view(offset, shape, strides)

    def _every(self, low: int, high: int, step: int) -> Tensor:
        count = -(-(high - low) // step)
        dense = self.slice(-1, low, high).contiguous()
        whole = dense.pad(*(0 for _ in self.shape[1:]), count * step - (high - low))
        split = whole.reshape(math.prod(self.shape[:-1]), count, step)
        return split.slice(-1, 0, 1).contiguous(*self.shape[:-1], count)

    def chunk(self, axis: int, size: int) -> list[Tensor]:
        """Cuts an axis into pieces of `size`; the last may be shorter.

        Raises:
            InvalidOption: `size` is below 1.
        """
        if size < 1:
            raise InvalidOption(f"an axis cannot be cut into pieces of size {size}")
        length = self.shape[rules.axis_of(self.shape, axis)]
        return [self.slice(axis, low, min(low + size, length)) for low in range(0, length, size)]

    def chunk_sections(self, axis: int, *sections: int) -> list[Tensor]:
        """Cuts an axis into pieces of the given sizes.

        Raises:
            InvalidOption: they do not add up to the axis.
        """
        axis = rules.axis_of(self.shape, axis)
        if sum(sections) != self.dim(axis) or min(sections) < 1:
            raise InvalidOption(f"sections {sections} do not add up to axis {axis} of shape {self.shape}")
        ends = [sum(sections[: i + 1]) for i in range(len(sections))]
        return [self.slice(axis, end - size, end) for end, size in zip(ends, sections, strict=True)]

    # -- states ---------------------------------------------------------------------------------------

    @abstractmethod
    def ssm_conv(self, kernel: Tensor) -> Tensor:
        """Convolves each channel with a kernel of its own; Gu and Dao, arXiv:2312.00752.

        Args:
            self: F32 (sequences, channels, taps - 1 + tokens), what came before the tokens in front of them.
            kernel: F32 (channels, taps), the tap of the token itself last.

        Returns:
            F32 (sequences, tokens, channels).
        """

    def gated_delta_net(
        self, key: Tensor, value: Tensor, decay: Tensor, rate: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A memory S of each head that tokens forget, correct and ask; Yang et al., arXiv:2412.06464.

        For each token S becomes e^decay S, then S + rate (v - S k) k^T, and the result is S q / sqrt(d).
        Head h of values asks with head h modulo the number of these.

        Args:
            self: queries, F32 (sequences, tokens, key heads, d).
            key: the same.
            value: F32 (sequences, tokens, heads, d).
            decay: F32 (sequences, tokens, heads), not above 0.
            rate: F32 (sequences, tokens, heads), from 0 to 1.
            state: S before the first token, F32 (sequences, heads, d, d), a row for each element of values.

        Returns:
            F32 (sequences, tokens, heads, d), and S after the last token.
        """
        rules.gated_delta_net(self, key, value, decay, rate, state)
        both = self._gated_delta_net(key, value, decay, rate, state)
        return both.view(0, value.shape), both.view(4 * math.prod(value.shape), state.shape)

    @abstractmethod
    def _gated_delta_net(
        self, key: Tensor, value: Tensor, decay: Tensor, rate: Tensor, state: Tensor
    ) -> Tensor:
        """The elements of both results one after the other, in rows of heads * d."""

    # -- images ---------------------------------------------------------------------------------------

    @abstractmethod
    def avg_pool_2d(self, kernel: int, stride: int, padding: float) -> Tensor:
        """Means over square windows of the last two axes: (…, H, W)."""

    @abstractmethod
    def conv_2d(
        self, images: Tensor, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
    ) -> Tensor:
        """Convolves `images` (N, C, H, W) with this kernel (O, C, KH, KW) → (N, O, OH, OW).

        Pairs are (along width, along height).
        """

    @abstractmethod
    def im2col(
        self, images: Tensor, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
    ) -> Tensor:
        """The patches of `images` (N, C, H, W) that a kernel of this shape (O, C, KH, KW) meets.

        Result F32 (N, OH, OW, C * KH * KW). Pairs are (along width, along height).
        """

    # -- attention ------------------------------------------------------------------------------------

    @abstractmethod
    def rope(self, positions: Tensor, parameters: RopeParameters, factors: Tensor | None = None) -> Tensor:
        """Rotary position embedding of (tokens, heads, head_size); Su et al., arXiv:2104.09864.

        Args:
            positions: I32 (tokens,); for multi-section types (4 * tokens,), one block per section.
            factors: F32 (dimensions / 2,): each frequency is divided by its factor (Llama 3, LongRoPE).
        """

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
        """softmax(query key^T * scale + mask) value, head by head; this tensor is the query.

        Heads of the query share those of key and value evenly (grouped-query attention, arXiv:2305.13245).

        Args:
            self: F32 (tokens, heads, d_k).
            key: (cells, kv_heads, d_k).
            value: (cells, kv_heads, d_v), or (kv_heads, d_v, cells) where the backend's CacheConfig has
                `permuted_v` and they come from a cache.
            mask: (tokens, cells), 0 or -inf, or None to see everything.
            scale: usually 1 / sqrt(d_k).
            sinks: F32 (heads,), see `softmax`.
            logit_softcap: if not 0, scores s become softcap * tanh(s / softcap) (Gemma 2).

        Returns:
            F32 (tokens, heads, d_v), contiguous.
        """
        query = self.permute(1, 0, 2)
        scores = key.permute(1, 0, 2).mul_mat_full_prec(query)
        if logit_softcap:
            scores = scores.scale(scale / logit_softcap).tanh()
            weights = scores.softmax(mask, logit_softcap, sinks)
        else:
            weights = scores.softmax(mask, scale, sinks)
        # The blocks of quantised types lie along the last axis; only single elements can be turned.
        if value.dtype not in (DType.F32, DType.F16):
            value = value.cast(DType.F32)
        by_column = value.permute(1, 2, 0).contiguous()
        return by_column.mul_mat(weights).permute(1, 0, 2).contiguous()
