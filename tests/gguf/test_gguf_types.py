"""The table of tensor types, against the C library and gguf-py."""

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguf
from puna.errors import UnsupportedModel
from puna.gguf import GGMLType
from puna.gguf.byteorder import swap_bytes
from puna.gguf.types import FILE_TYPES, REMOVED_TYPES


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("libggml")
    assert spec is not None and spec.origin is not None
    base = ctypes.CDLL(str(Path(spec.origin).parent / "lib64" / "libggml-base.so"))
    base.ggml_type_size.restype = ctypes.c_size_t
    base.ggml_blck_size.restype = ctypes.c_int64
    base.ggml_type_name.restype = ctypes.c_char_p
    base.ggml_row_size.restype = ctypes.c_size_t
    base.ggml_row_size.argtypes = (ctypes.c_int, ctypes.c_int64)
    return base


@pytest.mark.parametrize("type_", GGMLType)
def test_sizes_are_those_of_ggml(library: ctypes.CDLL, type_: GGMLType) -> None:
    assert library.ggml_blck_size(int(type_)) == type_.block_size
    assert library.ggml_type_size(int(type_)) == type_.type_size
    assert library.ggml_type_name(int(type_)).decode().lower() == type_.name.lower()
    assert library.ggml_row_size(int(type_), 1024) == type_.nbytes((1024,))
    assert type_.is_quantized == (type_.block_size > 1)


def test_every_other_id_is_unknown_to_ggml(library: ctypes.CDLL) -> None:
    for number in sorted(set(range(43)) - set(GGMLType)):
        assert number in REMOVED_TYPES
        assert library.ggml_blck_size(number) == 0


def test_ids_are_those_of_gguf_py() -> None:
    ours = {type_.name: int(type_) for type_ in GGMLType}
    theirs = {type_.name: int(type_) for type_ in gguf.GGMLQuantizationType}
    assert theirs.items() <= ours.items()


def test_file_types_are_those_of_gguf_py() -> None:
    theirs = {int(t): t.name.removeprefix("MOSTLY_").removeprefix("ALL_") for t in gguf.LlamaFileType}
    del theirs[1024]
    assert theirs.items() <= FILE_TYPES.items()


def test_nbytes_is_exact_beyond_64_bits() -> None:
    assert GGMLType.Q4_0.nbytes((2**40, 2**40, 64)) == 2**80 * 36
    assert GGMLType.F32.nbytes(()) == 4
    assert GGMLType.Q8_0.nbytes((3, 0)) == 0


def test_nbytes_refuses_broken_rows_and_negative_dimensions() -> None:
    with pytest.raises(ValueError, match="block of 32"):
        GGMLType.Q4_0.nbytes((32, 31))
    with pytest.raises(ValueError, match="negative"):
        GGMLType.F32.nbytes((-1, -2))


# Byte order


@pytest.mark.parametrize("name", ["F32", "F64", "I16", "I32", "I64", "F16", "BF16"])
def test_plain_numbers_are_turned_round(name: str) -> None:
    width = GGMLType[name].type_size
    values = np.random.default_rng(1).integers(0, 256, 40 * width, np.uint8)
    expected = values.reshape(-1, width)[:, ::-1].tobytes()
    assert swap_bytes(GGMLType[name], values) == expected


BLOCK_STRUCTS: dict[GGMLType, Any] = {
    GGMLType.Q4_0: [("d", "f2"), ("qs", "u1", 16)],
    GGMLType.Q4_1: [("dm", "f2", 2), ("qs", "u1", 16)],
    GGMLType.Q5_0: [("d", "f2"), ("qh", "u4"), ("qs", "u1", 16)],
    GGMLType.Q5_1: [("dm", "f2", 2), ("qh", "u4"), ("qs", "u1", 16)],
    GGMLType.Q8_0: [("d", "f2"), ("qs", "i1", 32)],
    GGMLType.Q8_1: [("ds", "f2", 2), ("qs", "i1", 32)],
    GGMLType.Q2_K: [("scales", "u1", 16), ("qs", "u1", 64), ("dm", "f2", 2)],
    GGMLType.Q3_K: [("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), ("d", "f2")],
    GGMLType.Q4_K: [("dm", "f2", 2), ("scales", "u1", 12), ("qs", "u1", 128)],
    GGMLType.Q5_K: [("dm", "f2", 2), ("scales", "u1", 12), ("qh", "u1", 32), ("qs", "u1", 128)],
    GGMLType.Q6_K: [("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "f2")],
    GGMLType.Q8_K: [("d", "f4"), ("qs", "i1", 256), ("bsums", "i2", 16)],
    GGMLType.IQ2_XS: [("d", "f2"), ("qs", "u2", 32), ("scales", "u1", 8)],
    GGMLType.IQ2_S: [("d", "f2"), ("qs", "u1", 64), ("qh", "u1", 8), ("scales", "u1", 8)],
    GGMLType.IQ3_XXS: [("d", "f2"), ("qs", "u1", 64), ("signs", "u4", 8)],
    GGMLType.IQ3_S: [("d", "f2"), ("bytes", "u1", 108)],
    GGMLType.IQ1_S: [("d", "f2"), ("qs", "u1", 32), ("qh", "u2", 8)],
    GGMLType.IQ1_M: [("qs", "u1", 32), ("qh", "u1", 16), ("scales", "u2", 4)],
    GGMLType.IQ4_NL: [("d", "f2"), ("qs", "u1", 16)],
    GGMLType.IQ4_XS: [("d", "f2"), ("scales_h", "u2"), ("scales_l", "u1", 4), ("qs", "u1", 128)],
    GGMLType.TQ1_0: [("qs", "u1", 48), ("qh", "u1", 4), ("d", "f2")],
    GGMLType.TQ2_0: [("qs", "u1", 64), ("d", "f2")],
    GGMLType.MXFP4: [("e", "u1"), ("qs", "u1", 16)],
    GGMLType.NVFP4: [("d", "u1", 4), ("qs", "u1", 32)],
    GGMLType.Q1_0: [("d", "f2"), ("qs", "u1", 16)],
    GGMLType.Q2_0: [("d", "f2"), ("qs", "u1", 16)],
}


@pytest.mark.parametrize("type_", BLOCK_STRUCTS)
def test_blocks_are_turned_round_field_by_field(type_: GGMLType) -> None:
    """NumPy's byteswap of the C structs is the oracle."""
    struct = np.dtype(BLOCK_STRUCTS[type_])
    assert struct.itemsize == type_.type_size
    blocks = np.random.default_rng(int(type_)).integers(0, 256, 7 * struct.itemsize, np.uint8)
    swapped = swap_bytes(type_, blocks)
    assert swapped == blocks.view(struct).byteswap().tobytes()
    assert swap_bytes(type_, swapped) == blocks.tobytes()


def test_every_quantised_type_but_one_can_be_turned_round() -> None:
    quantised = {type_ for type_ in GGMLType if type_.is_quantized}
    assert quantised - set(BLOCK_STRUCTS) == {GGMLType.IQ2_XXS}
    with pytest.raises(UnsupportedModel, match="IQ2_XXS"):
        swap_bytes(GGMLType.IQ2_XXS, bytes(66))


def test_only_whole_blocks_can_be_turned_round() -> None:
    with pytest.raises(ValueError, match="19 bytes"):
        swap_bytes(GGMLType.Q4_0, bytes(19))
