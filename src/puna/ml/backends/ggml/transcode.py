"""Turning a weight into another element type while it is loaded.

Some block types have no fast matrix kernel on common processors. What they hold can be said in types that
have one, see `Change` and docs/ml.md:

- Q4_1 holds x = d q + m, with q from 0 to 15 and one d and m for 32 elements. That is d (q - 8), which is
  Q4_0 bit for bit, plus m + 8 d for every element of the block. So a product with a Q4_1 matrix is one with
  a Q4_0 matrix, plus one of the block's offsets with the sums of 32 elements of the vector each. It takes
  the same memory and rounds nothing but the offsets, to F16.
- Q5_0 holds x = d q, with q from -16 to 15 and one d for 32 elements: Q8_0 with the same d and q, exactly.
- Q5_1 becomes Q8_0 by rounding, to within 0.4 % of the block's largest.
- F32 and F16 become BF16 by rounding to 8 bits, where a model bears that (`ROUNDED`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from puna.ggml import access
from puna.gguf import GGMLType, TensorInfo
from puna.ml.array import Array

if TYPE_CHECKING:
    from puna.ggml import Library

BLOCK = 32
"""Elements that share an offset."""

_ROWS_AT_ONCE = 4096
_Q4_1_BYTES, _Q4_1_HEAD, _Q5_0_BYTES = 20, 4, 22

Convert = Callable[["Library", Array, TensorInfo], Array]


@dataclass(frozen=True, slots=True)
class Change:
    """What a slow type becomes.

    Attributes:
        type: the type of the matrix.
        convert: makes its bytes of the file's bytes.
        offsets: makes the F16 offsets (rows, columns / BLOCK) of the file's bytes, if there are any.
    """

    type: GGMLType
    convert: Convert
    offsets: Convert | None = None

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a matrix of `shape` after the change."""
        size = self.type.nbytes(shape)
        return size if self.offsets is None else size + self.type.nbytes(shape) // self.type.type_size * 2


def _q4_0_of_q4_1(library: Library, content: Array, source: TensorInfo) -> Array:
    blocks = content.reshape(-1, _Q4_1_BYTES)
    packed: Array = np.concatenate((blocks[:, :2], blocks[:, _Q4_1_HEAD:]), axis=1)
    return packed.reshape(-1)


def _offsets_of_q4_1(library: Library, content: Array, source: TensorInfo) -> Array:
    heads = np.ascontiguousarray(content.reshape(-1, _Q4_1_BYTES)[:, :_Q4_1_HEAD]).view(np.float16)
    scale, minimum = heads.astype(np.float32).T
    offsets: Array = (minimum + 8.0 * scale).astype(np.float16)
    return offsets.view(np.uint8)


def _q8_0_of_q5_0(library: Library, content: Array, source: TensorInfo) -> Array:
    blocks = content.reshape(-1, _Q5_0_BYTES)
    high = np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little") << np.uint8(4)
    nibbles = blocks[:, 6:]
    low = np.concatenate((nibbles & np.uint8(15), nibbles >> np.uint8(4)), axis=1)
    packed: Array = np.concatenate((blocks[:, :2], (low | high) - np.uint8(16)), axis=1)
    return packed.reshape(-1)


def _q8_0_of_any(library: Library, content: Array, source: TensorInfo) -> Array:
    width, target = source.shape[-1], GGMLType.Q8_0
    row_in, row_out = source.type.nbytes((width,)), target.nbytes((width,))
    rows = content.size // row_in
    result = np.empty(rows * row_out, np.uint8)
    floats = np.empty(min(rows, _ROWS_AT_ONCE) * width, np.float32)
    for first in range(0, rows, _ROWS_AT_ONCE):
        count = min(_ROWS_AT_ONCE, rows - first)
        begin = content.ctypes.data + first * row_in
        access.to_float(library, int(source.type), begin, floats.ctypes.data, count * width)
        end = result.ctypes.data + first * row_out
        library.ggml_quantize_chunk(int(target), floats.ctypes.data, end, 0, count, width, None)
    return result


def _bf16_of_floats(library: Library, content: Array, source: TensorInfo) -> Array:
    numbers = content.view(np.float32 if source.type is GGMLType.F32 else np.float16)
    floats, result = np.ascontiguousarray(numbers, np.float32), np.empty(numbers.size, np.uint16)
    library.ggml_fp32_to_bf16_row(floats.ctypes.data, result.ctypes.data, floats.size)
    return result.view(np.uint8)


CHANGES = {
    GGMLType.Q4_1: Change(GGMLType.Q4_0, _q4_0_of_q4_1, _offsets_of_q4_1),
    GGMLType.Q5_0: Change(GGMLType.Q8_0, _q8_0_of_q5_0),
    GGMLType.Q5_1: Change(GGMLType.Q8_0, _q8_0_of_any),
}
"""What becomes of the types without a fast kernel."""

ROUNDED = {
    GGMLType.F32: Change(GGMLType.BF16, _bf16_of_floats),
    GGMLType.F16: Change(GGMLType.BF16, _bf16_of_floats),
}
"""What becomes of the types that are multiplied faster, but less exactly, as another."""
