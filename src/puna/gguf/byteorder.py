"""Turning the stored data of tensors from one byte order into the other.

The data of a big-endian file is what ggml writes on a big-endian machine: every number of more than one byte
inside a block is the other way round. Which parts of a block are such numbers follows from the structs of
ggml-common.h and from how ggml-quants.c reads them (Q5_0, Q5_1 and IQ3_XXS read some of their bytes as 32-bit
words, IQ1_M reads its scales as 16-bit words).
"""

from typing import TYPE_CHECKING, Any, Final, cast

from puna.errors import UnsupportedModel
from puna.gguf.types import GGMLType

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from numpy.typing import NDArray

# (offset in the block, bytes of one number, how many in a row)
_Numbers = tuple[tuple[int, int, int], ...]
_HALF_FIRST: Final[_Numbers] = ((0, 2, 1),)
_TWO_HALVES_FIRST: Final[_Numbers] = ((0, 2, 2),)

_NUMBERS: Final[dict[GGMLType, _Numbers]] = {
    GGMLType.F32: ((0, 4, 1),),
    GGMLType.F16: ((0, 2, 1),),
    GGMLType.BF16: ((0, 2, 1),),
    GGMLType.F64: ((0, 8, 1),),
    GGMLType.I8: (),
    GGMLType.I16: ((0, 2, 1),),
    GGMLType.I32: ((0, 4, 1),),
    GGMLType.I64: ((0, 8, 1),),
    GGMLType.Q1_0: _HALF_FIRST,
    GGMLType.Q2_0: _HALF_FIRST,
    GGMLType.Q4_0: _HALF_FIRST,
    GGMLType.Q4_1: _TWO_HALVES_FIRST,
    GGMLType.Q5_0: ((0, 2, 1), (2, 4, 1)),
    GGMLType.Q5_1: ((0, 2, 2), (4, 4, 1)),
    GGMLType.Q8_0: _HALF_FIRST,
    GGMLType.Q8_1: _TWO_HALVES_FIRST,
    GGMLType.Q2_K: ((80, 2, 2),),
    GGMLType.Q3_K: ((108, 2, 1),),
    GGMLType.Q4_K: _TWO_HALVES_FIRST,
    GGMLType.Q5_K: _TWO_HALVES_FIRST,
    GGMLType.Q6_K: ((208, 2, 1),),
    GGMLType.Q8_K: ((0, 4, 1), (260, 2, 16)),
    GGMLType.IQ2_XS: ((0, 2, 33),),
    GGMLType.IQ2_S: _HALF_FIRST,
    GGMLType.IQ3_XXS: ((0, 2, 1), (66, 4, 8)),
    GGMLType.IQ3_S: _HALF_FIRST,
    GGMLType.IQ1_S: ((0, 2, 1), (34, 2, 8)),
    GGMLType.IQ1_M: ((48, 2, 4),),
    GGMLType.IQ4_NL: _HALF_FIRST,
    GGMLType.IQ4_XS: ((0, 2, 2),),
    GGMLType.TQ1_0: ((52, 2, 1),),
    GGMLType.TQ2_0: ((64, 2, 1),),
    GGMLType.MXFP4: (),
    GGMLType.NVFP4: (),
}


def swap_bytes(type_: GGMLType, data: "ReadableBuffer | NDArray[Any]") -> bytearray:
    """A copy of a tensor's stored data, whole blocks of `type_`, in the other byte order; its own inverse.

    Raises:
        UnsupportedModel: the type has no defined big-endian form. That is IQ2_XXS alone, whose blocks ggml
            reads both as bytes and as 32-bit words.
        ValueError: the data is not a whole number of blocks.
    """
    if type_ not in _NUMBERS:
        raise UnsupportedModel(f"tensors of type {type_.name} cannot be read from a big-endian file")
    source = memoryview(cast("ReadableBuffer", data)).cast("B")
    if len(source) % type_.type_size:
        raise ValueError(f"{len(source)} bytes are no whole number of {type_.name} blocks")
    swapped = bytearray(source)
    block = type_.type_size
    for offset, width, count in _NUMBERS[type_]:
        for number in range(offset, offset + width * count, width):
            for byte in range(width):
                swapped[number + byte :: block] = source[number + width - 1 - byte :: block]
    return swapped
