"""Enumerations and constants of the ggml C library.

Written by scripts/generate_ggml.py from the headers of ggml 0.15.3, 0.20.2 and 0.25.3: do not edit.
"""

from enum import IntEnum

GGML_BACKEND_META_MAX_DEVICES = 16
GGML_DEFAULT_GRAPH_SIZE = 2048
GGML_DEFAULT_N_THREADS = 4
GGML_EXIT_ABORTED = 1
GGML_EXIT_SUCCESS = 0
GGML_FILE_MAGIC = 1734831468
GGML_FILE_VERSION = 2
GGML_MAX_DIMS = 4
GGML_MAX_NAME = 64
GGML_MAX_N_THREADS = 512
GGML_MAX_OP_PARAMS = 64
GGML_MAX_PARAMS = 2048
GGML_MAX_SRC = 10
GGML_MROPE_SECTIONS = 4
GGML_QNT_VERSION = 2
GGML_QNT_VERSION_FACTOR = 1000
GGML_ROPE_TYPE_IMROPE = 40
GGML_ROPE_TYPE_MROPE = 8
GGML_ROPE_TYPE_NEOX = 2
GGML_ROPE_TYPE_NORMAL = 0
GGML_ROPE_TYPE_VISION = 24
GGML_RPC_MAX_SERVERS = 16


class Status(IntEnum):
    """`enum ggml_status`."""

    ALLOC_FAILED = -2
    FAILED = -1
    SUCCESS = 0
    ABORTED = 1


class Type(IntEnum):
    """`enum ggml_type`."""

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


class Prec(IntEnum):
    """`enum ggml_prec`."""

    UNDEFINED = 0
    DEFAULT = 0
    F32 = 10
    BF16 = 15
    F16 = 20
    Q8 = 30
    Q4 = 40


class OpHint(IntEnum):
    """`enum ggml_op_hint`."""

    NONE = 0
    SRC0_IS_HADAMARD = 1


class Ftype(IntEnum):
    """`enum ggml_ftype`."""

    UNKNOWN = -1
    ALL_F32 = 0
    MOSTLY_F16 = 1
    MOSTLY_Q4_0 = 2
    MOSTLY_Q4_1 = 3
    MOSTLY_Q4_1_SOME_F16 = 4
    MOSTLY_Q8_0 = 7
    MOSTLY_Q5_0 = 8
    MOSTLY_Q5_1 = 9
    MOSTLY_Q2_K = 10
    MOSTLY_Q3_K = 11
    MOSTLY_Q4_K = 12
    MOSTLY_Q5_K = 13
    MOSTLY_Q6_K = 14
    MOSTLY_IQ2_XXS = 15
    MOSTLY_IQ2_XS = 16
    MOSTLY_IQ3_XXS = 17
    MOSTLY_IQ1_S = 18
    MOSTLY_IQ4_NL = 19
    MOSTLY_IQ3_S = 20
    MOSTLY_IQ2_S = 21
    MOSTLY_IQ4_XS = 22
    MOSTLY_IQ1_M = 23
    MOSTLY_BF16 = 24
    MOSTLY_MXFP4 = 25
    MOSTLY_NVFP4 = 26
    MOSTLY_Q1_0 = 27
    MOSTLY_Q2_0 = 28


class UnaryOp(IntEnum):
    """`enum ggml_unary_op`."""

    ABS = 0
    SGN = 1
    NEG = 2
    STEP = 3
    TANH = 4
    ELU = 5
    RELU = 6
    SIGMOID = 7
    GELU = 8
    GELU_QUICK = 9
    SILU = 10
    HARDSWISH = 11
    HARDSIGMOID = 12
    EXP = 13
    EXPM1 = 14
    SOFTPLUS = 15
    GELU_ERF = 16
    XIELU = 17
    FLOOR = 18
    CEIL = 19
    ROUND = 20
    TRUNC = 21


class GluOp(IntEnum):
    """`enum ggml_glu_op`."""

    REGLU = 0
    GEGLU = 1
    SWIGLU = 2
    SWIGLU_OAI = 3
    GEGLU_ERF = 4
    GEGLU_QUICK = 5
    SWIGLU_CLAMP = 6


class LogLevel(IntEnum):
    """`enum ggml_log_level`."""

    NONE = 0
    DEBUG = 1
    INFO = 2
    WARN = 3
    ERROR = 4
    CONT = 5


class TensorFlag(IntEnum):
    """`enum ggml_tensor_flag`."""

    INPUT = 1
    OUTPUT = 2
    PARAM = 4
    LOSS = 8
    COMPUTE = 16


class TriType(IntEnum):
    """`enum ggml_tri_type`."""

    UPPER_DIAG = 0
    UPPER = 1
    LOWER_DIAG = 2
    LOWER = 3


class OpPool(IntEnum):
    """`enum ggml_op_pool`."""

    MAX = 0
    AVG = 1


class ScaleMode(IntEnum):
    """`enum ggml_scale_mode`."""

    NEAREST = 0
    BILINEAR = 1
    BICUBIC = 2


class ScaleFlag(IntEnum):
    """`enum ggml_scale_flag`."""

    ALIGN_CORNERS = 256
    ANTIALIAS = 512


class SortOrder(IntEnum):
    """`enum ggml_sort_order`."""

    ASC = 0
    DESC = 1


class SchedPriority(IntEnum):
    """`enum ggml_sched_priority`."""

    LOW = -1
    NORMAL = 0
    MEDIUM = 1
    HIGH = 2
    REALTIME = 3


class BackendBufferUsage(IntEnum):
    """`enum ggml_backend_buffer_usage`."""

    ANY = 0
    WEIGHTS = 1
    COMPUTE = 2


class BackendDevType(IntEnum):
    """`enum ggml_backend_dev_type`."""

    CPU = 0
    GPU = 1
    IGPU = 2
    ACCEL = 3
    META = 4


class BackendMetaSplitAxis(IntEnum):
    """`enum ggml_backend_meta_split_axis`."""

    GGML_BACKEND_SPLIT_AXIS_0 = 0
    GGML_BACKEND_SPLIT_AXIS_1 = 1
    GGML_BACKEND_SPLIT_AXIS_2 = 2
    GGML_BACKEND_SPLIT_AXIS_3 = 3
    GGML_BACKEND_SPLIT_AXIS_MIRRORED = 10
    GGML_BACKEND_SPLIT_AXIS_PARTIAL = 11
    GGML_BACKEND_SPLIT_AXIS_NONE = 98
    GGML_BACKEND_SPLIT_AXIS_UNKNOWN = 99


class NumaStrategy(IntEnum):
    """`enum ggml_numa_strategy`."""

    DISABLED = 0
    DISTRIBUTE = 1
    ISOLATE = 2
    NUMACTL = 3
    MIRROR = 4
