"""Element types in NumPy's terms: how the elements of a tensor lie in an array, and what numbers they are.

An array of a block type has one opaque element of `type_size` bytes per block.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from puna.errors import InvalidOption, UnsupportedModel
from puna.gguf import GGMLType
from puna.ml.array import Array, Floats
from puna.ml.backends.reference import quants
from puna.ml.dtype import DType

_PLAIN: dict[GGMLType, np.dtype[Any]] = {
    GGMLType.F32: np.dtype("<f4"),
    GGMLType.F64: np.dtype("<f8"),
    GGMLType.F16: np.dtype("<f2"),
    GGMLType.BF16: np.dtype("<u2"),
    GGMLType.I8: np.dtype("i1"),
    GGMLType.I16: np.dtype("<i2"),
    GGMLType.I32: np.dtype("<i4"),
    GGMLType.I64: np.dtype("<i8"),
}
INTEGERS = frozenset({GGMLType.I8, GGMLType.I16, GGMLType.I32, GGMLType.I64})
NUMPY = frozenset({DType.F32, DType.F16, DType.I32, DType.I64})


def file_type(dtype: DType) -> GGMLType:
    """The file's name of an element type. Raises InvalidOption for OTHER, which names none."""
    if dtype is DType.OTHER:
        raise InvalidOption("a tensor cannot be made of type OTHER")
    return GGMLType[dtype.name]


def dtype_of(type_: GGMLType) -> DType:
    """The interface's name of a file type; OTHER if it has none."""
    return DType.__members__.get(type_.name, DType.OTHER)


def array_type(type_: GGMLType) -> np.dtype[Any]:
    """The NumPy type of one element, or of one block."""
    return _PLAIN.get(type_, np.dtype(f"V{type_.type_size}"))


def numbers(array: Array, type_: GGMLType) -> Array:
    """The elements as float64, or as integers if that is what they are; the last axis is in elements."""
    if type_ in INTEGERS:
        return array
    if type_ is GGMLType.BF16:
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if type_ in _PLAIN:
        return array.astype(np.float64)
    if type_ not in quants.DECODABLE:
        raise UnsupportedModel(f"the reference backend cannot compute with tensors of type {type_.name}")
    blocks = np.ascontiguousarray(array).view(np.uint8).reshape(-1, type_.type_size)
    values = quants.decode(blocks, type_).astype(np.float64)
    return values.reshape(*array.shape[:-1], array.shape[-1] * type_.block_size)


def stored(values: Array, type_: GGMLType) -> Array:
    """Numbers as elements of `type_`, rounded once."""
    if type_ is GGMLType.BF16:
        return _bfloat(values.astype(np.float32))
    if type_ in _PLAIN:
        return np.ascontiguousarray(values, dtype=_PLAIN[type_])
    if type_ not in quants.ENCODABLE:
        raise InvalidOption(f"nothing can be converted to type {type_.name}")
    rows = values.astype(np.float32).reshape(-1, type_.block_size)
    blocks = quants.encode(rows, type_).view(array_type(type_))
    return blocks.reshape(*values.shape[:-1], values.shape[-1] // type_.block_size)


def _bfloat(values: Floats) -> NDArray[np.uint16]:
    """The upper half of each float32, rounded to the nearest, ties to even; a NaN stays one."""
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype("<u2")
