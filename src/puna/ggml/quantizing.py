"""Rows of numbers from one type to another by ggml's own code, which releases the interpreter lock."""

import ctypes
from array import array

from puna.ggml.access import to_float
from puna.ggml.enums import Type
from puna.ggml.library import Library

_FLOAT = ctypes.sizeof(ctypes.c_float)


def is_valid(library: Library, type: int, content: bytearray) -> bool:
    """Whether stored elements hold no infinity and no NaN."""
    return bool(library.ggml_validate_row_data(type, _address(content), len(content)))


def widened(library: Library, type: int, content: bytearray, count: int) -> bytearray:
    """`count` stored elements as float32; those of that type unchanged."""
    if type == Type.F32:
        return content
    floats = bytearray(count * _FLOAT)
    to_float(library, type, _address(content), _address(floats), count)
    return floats


def quantized(
    library: Library,
    type: int,
    floats: bytearray,
    columns: int,
    size: int,
    weights: "array[float] | None" = None,
) -> bytearray:
    """Rows of float32, stored as another type.

    Args:
        columns: elements of a row.
        size: bytes of the result.
        weights: how much each column matters; None where nothing is known.
    """
    rows = len(floats) // _FLOAT // columns
    content = bytearray(size)
    importance = None if weights is None else weights.buffer_info()[0]
    library.ggml_quantize_chunk(type, _address(floats), _address(content), 0, rows, columns, importance)
    return content


def _address(content: bytearray) -> int:
    """Where the bytes lie; they stay there as long as nobody resizes them."""
    return ctypes.addressof(ctypes.c_char.from_buffer(content))
