"""The numbers of the format: tensor types, value types, their sizes, and the limits on what a file may claim.

Sources: the GGUF specification (ggml, docs/gguf.md), `enum ggml_type` of ggml.h and the block structs of
ggml-common.h up to ggml 0.26.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import Final

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
DEFAULT_ALIGNMENT: Final = 32
MIN_ALIGNMENT: Final = 8
MAX_ALIGNMENT: Final = 1 << 24
ALIGNMENT_KEY: Final = "general.alignment"

MAX_DIMENSIONS: Final = 4
MAX_KEY_BYTES: Final = 65535
MAX_NAME_BYTES: Final = 64
MAX_STRING_BYTES: Final = 16 << 20
MAX_ARRAY_ELEMENTS: Final = 64 << 20
# An array of strings has to be walked when the file is opened; the largest vocabularies hold about 2^20.
MAX_ARRAY_STRINGS: Final = 4 << 20
MAX_KEYS: Final = 1 << 16
MAX_TENSORS: Final = 1 << 18
MAX_INT64: Final = (1 << 63) - 1


class ValueType(IntEnum):
    """The type of a metadata value or of an array's elements."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


# `struct` codes; they have the same sizes under "<" and ">".
SCALAR_CODES: Final[dict[ValueType, str]] = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
SCALAR_SIZES: Final[dict[ValueType, int]] = {
    type_: {"B": 1, "b": 1, "?": 1, "H": 2, "h": 2, "I": 4, "i": 4, "f": 4, "Q": 8, "q": 8, "d": 8}[code]
    for type_, code in SCALAR_CODES.items()
}
INTEGER_TYPES: Final = frozenset(type_ for type_, code in SCALAR_CODES.items() if code not in "?fd")
FLOAT_TYPES: Final = frozenset({ValueType.FLOAT32, ValueType.FLOAT64})


class GGMLType(IntEnum):
    """The element type of a tensor, with ggml's own ids.

    A tensor is stored as rows of blocks: `block_size` elements of the last (fastest) axis take `type_size`
    bytes.
    """

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q8_1 = 9
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39
    NVFP4 = 40
    Q1_0 = 41
    Q2_0 = 42

    @property
    def block_size(self) -> int:
        """Elements in one block; 1 for types that are not quantised."""
        return _BLOCKS[self][0]

    @property
    def type_size(self) -> int:
        """Bytes of one block."""
        return _BLOCKS[self][1]

    @property
    def is_quantized(self) -> bool:
        """Whether one block holds more than one element."""
        return _BLOCKS[self][0] > 1

    def nbytes(self, shape: Sequence[int]) -> int:
        """Bytes of a contiguous tensor of `shape` (slowest axis first); exact, never wraps.

        Raises:
            ValueError: a row (the last axis) is not a whole number of blocks, or a dimension is negative.
        """
        if any(length < 0 for length in shape):
            raise ValueError(f"the shape {tuple(shape)} has a negative dimension")
        block_size, type_size = _BLOCKS[self]
        row = shape[-1] if shape else 1
        if row % block_size:
            raise ValueError(
                f"rows of {row} elements are not a multiple of {self.name}'s block of {block_size}"
            )
        return prod(shape) // block_size * type_size


# (elements of a block, bytes of a block)
_BLOCKS: Final[dict[GGMLType, tuple[int, int]]] = {
    GGMLType.F32: (1, 4),
    GGMLType.F16: (1, 2),
    GGMLType.Q4_0: (32, 18),
    GGMLType.Q4_1: (32, 20),
    GGMLType.Q5_0: (32, 22),
    GGMLType.Q5_1: (32, 24),
    GGMLType.Q8_0: (32, 34),
    GGMLType.Q8_1: (32, 36),
    GGMLType.Q2_K: (256, 84),
    GGMLType.Q3_K: (256, 110),
    GGMLType.Q4_K: (256, 144),
    GGMLType.Q5_K: (256, 176),
    GGMLType.Q6_K: (256, 210),
    GGMLType.Q8_K: (256, 292),
    GGMLType.IQ2_XXS: (256, 66),
    GGMLType.IQ2_XS: (256, 74),
    GGMLType.IQ3_XXS: (256, 98),
    GGMLType.IQ1_S: (256, 50),
    GGMLType.IQ4_NL: (32, 18),
    GGMLType.IQ3_S: (256, 110),
    GGMLType.IQ2_S: (256, 82),
    GGMLType.IQ4_XS: (256, 136),
    GGMLType.I8: (1, 1),
    GGMLType.I16: (1, 2),
    GGMLType.I32: (1, 4),
    GGMLType.I64: (1, 8),
    GGMLType.F64: (1, 8),
    GGMLType.IQ1_M: (256, 56),
    GGMLType.BF16: (1, 2),
    GGMLType.TQ1_0: (256, 54),
    GGMLType.TQ2_0: (256, 66),
    GGMLType.MXFP4: (32, 17),
    GGMLType.NVFP4: (64, 36),
    GGMLType.Q1_0: (128, 18),
    GGMLType.Q2_0: (64, 18),
}

# Ids that ggml once used and no longer reads.
REMOVED_TYPES: Final[dict[int, str]] = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}

# The names of `general.file_type` (enum llama_ftype), as quantisation tools spell them.
FILE_TYPES: Final[dict[int, str]] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
    41: "Q2_0",
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies.

    Attributes:
        name: its name in the file.
        type: its element type.
        shape: its dimensions, slowest axis first (the file stores them the other way round).
        offset: bytes from the beginning of the file.
        nbytes: bytes it takes, without padding.
    """

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)


# What names are made of, in every converter known; no path, format directive or control character passes.
_NAME = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9_.:/+\-]*")


def is_tensor_name(raw: bytes) -> bool:
    """Whether `raw` may name a tensor."""
    return len(raw) <= MAX_NAME_BYTES and _NAME.fullmatch(raw) is not None and b".." not in raw


def is_key(key: str) -> bool:
    """Whether `key` may name a metadata value: printable text without replaced bytes."""
    return bool(key) and key.isprintable() and "\ufffd" not in key


def padded(size: int, alignment: int) -> int:
    """`size` rounded up to a multiple of `alignment`."""
    return -(-size // alignment) * alignment
