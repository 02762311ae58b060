"""Element types of tensors."""

from enum import IntEnum


class DType(IntEnum):
    """Element type of a tensor.

    The first six values are the original interface's; the rest name the further types that tensors can be
    made of, read from or cast to. A weight of any other file type reports OTHER: operations accept it,
    only its elements cannot be read back.
    """

    OTHER = 0
    F32 = 1
    F16 = 2
    Q8_0 = 3
    Q4_0 = 4
    I32 = 5
    I64 = 6
    BF16 = 7
    Q4_1 = 8
    Q5_0 = 9
    Q5_1 = 10
    Q4_K = 11
    Q5_K = 12
    Q6_K = 13
    MXFP4 = 14
