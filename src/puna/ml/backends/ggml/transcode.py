"""Turning a weight into another element type while it is loaded.

Some block types have no fast matrix kernel on some processors; a wider type that has one computes faster
and loses nothing that matters: Q8_0 holds every value of a 4- or 5-bit block to within 0.4 % of the
block's largest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from puna.ggml import access
from puna.gguf import GGMLType, TensorInfo
from puna.ml.array import Array

if TYPE_CHECKING:
    from puna.ggml import Library

FASTER = {GGMLType.Q4_1: GGMLType.Q8_0, GGMLType.Q5_0: GGMLType.Q8_0, GGMLType.Q5_1: GGMLType.Q8_0}
"""Types without a fast kernel, and the type each becomes."""

_ROWS_AT_ONCE = 4096


def growth(tensors: Iterable[TensorInfo]) -> float:
    """By which share all the weights together grow if every matrix of a slow type is transcoded."""
    before = after = 0
    for tensor in tensors:
        before += tensor.nbytes
        after += FASTER[tensor.type].nbytes(tensor.shape) if tensor.type in FASTER else tensor.nbytes
    return (after - before) / before if before else 0.0


def convert(library: Library, content: Array, source: TensorInfo, target: GGMLType) -> Array:
    """The elements of `content`, bytes of type `source.type`, as bytes of type `target`."""
    width = source.shape[-1]
    rows = content.size * source.type.block_size // source.type.type_size // width
    row_in, row_out = source.type.nbytes((width,)), target.nbytes((width,))
    result = np.empty(rows * row_out, np.uint8)
    floats = np.empty(min(rows, _ROWS_AT_ONCE) * width, np.float32)
    for first in range(0, rows, _ROWS_AT_ONCE):
        count = min(_ROWS_AT_ONCE, rows - first)
        begin = content.ctypes.data + first * row_in
        access.to_float(library, int(source.type), begin, floats.ctypes.data, count * width)
        end = result.ctypes.data + first * row_out
        library.ggml_quantize_chunk(int(target), floats.ctypes.data, end, 0, count, width, None)
    return result
