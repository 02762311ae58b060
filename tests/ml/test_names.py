"""Every name of the original interface is here, where docs/ml.md says."""

import re
from functools import reduce
from pathlib import Path

import pytest

import puna.ml

DOCUMENT = Path(__file__).parents[2] / "docs" / "ml.md"
MEMBERS = {
    "Backend": "Load BackendMemory Config Get NewContext NewContextSize",
    "BackendCacheConfig": "CacheConfig",
    "CacheConfig": "CachePadding PermutedV MaskDType MaskBatchPadding",
    "BackendParams": "NumThreads MainGPU NumGPULayers TensorSplit FlashAttention",
    "ErrNoMem": "BackendMemory Error",
    "AllocationStatus": "",
    "Memory": "Size Status String",
    "DeviceMemory": "Name UUID Weights Cache Graph LogValue",
    "BackendMemory": "InputWeights CPU GPUs LogValue",
    "Context": """
        Empty Zeros FromFloatSlice FromIntSlice Arange Forward Compute Reserve MaxGraphNodes Close Input Layer
    """,
    "Tensor": """
        Dim Stride Shape DType Bytes Floats Neg Add Sub Mul Div Mulmat MulmatFullPrec MulmatID Softmax
        LayerNorm RMSNorm Scale SumRows AvgPool2D Conv2D IM2Col Sin Cos Tanh GELU SILU RELU Sigmoid Reshape
        View Permute Contiguous Set Pad Stack Repeat Concat Rows Copy Duplicate TopK Argsort Mean Variance
        Stddev Sqr Sqrt Clamp
    """,
    "ScaledDotProductAttention": "ScaledDotProductAttention",
}
OTHERS = """
    Unallocated Failed Allocated RegisterBackend NewBackend DumpOptions DumpWithPrecision DumpWithThreshold
    DumpWithEdgeItems Dump DType DTypeOther DTypeF32 DTypeF16 DTypeQ80 DTypeQ40 DTypeI32
"""
ORIGINALS = [
    *MEMBERS,
    *(f"{owner}.{member}" for owner, members in MEMBERS.items() for member in members.split()),
    *OTHERS.split(),
]


def documented() -> dict[str, str]:
    """The table: original name to ours."""
    return dict(re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|", DOCUMENT.read_text("utf-8"), re.MULTILINE))


def test_the_table_is_complete() -> None:
    assert sorted(documented()) == sorted(ORIGINALS)


@pytest.mark.parametrize("original", ORIGINALS)
def test_the_name_exists(original: str) -> None:
    path = documented()[original].split(".")
    assert path[0] in puna.ml.__all__
    found = reduce(getattr, path[:-1], puna.ml)
    assert path[-1] in {*dir(found), *getattr(found, "__annotations__", {})}
