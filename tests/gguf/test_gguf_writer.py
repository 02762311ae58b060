"""The writer, and the reader against gguf-py in both directions."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import gguf
from puna.errors import GGUFError
from puna.gguf import GGMLType, GGUFFile, GGUFWriter, ValueType, metadata_of
from puna.gguf.byteorder import swap_bytes

ORDERS: tuple[Literal["<", ">"], ...] = ("<", ">")
SCALARS: dict[str, tuple[Any, ValueType]] = {
    "u8": (255, ValueType.UINT8),
    "i8": (-128, ValueType.INT8),
    "u16": (65535, ValueType.UINT16),
    "i16": (-32768, ValueType.INT16),
    "u32": (2**32 - 1, ValueType.UINT32),
    "i32": (-(2**31), ValueType.INT32),
    "u64": (2**64 - 1, ValueType.UINT64),
    "i64": (-(2**63), ValueType.INT64),
    "f32": (1.5, ValueType.FLOAT32),
    "f64": (0.1, ValueType.FLOAT64),
    "yes": (True, ValueType.BOOL),
    "no": (False, ValueType.BOOL),
    "text": ("grüße 🙂\n", ValueType.STRING),
    "empty": ("", ValueType.STRING),
}
ARRAYS: dict[str, tuple[list[Any], ValueType]] = {
    "general.tokens": (["a", "", "ü", "\u2581x" * 90], ValueType.STRING),
    "general.scores": ([0.5, -1.0, 3.25], ValueType.FLOAT32),
    "general.ids": ([1, -2, 3], ValueType.INT32),
    "general.wide": ([2**40, 1], ValueType.UINT64),
    "general.flags": ([True, False, True], ValueType.BOOL),
    "general.doubles": ([0.1], ValueType.FLOAT64),
}


def numbers(type_: GGMLType, shape: tuple[int, ...]) -> bytes:
    return np.random.default_rng(3).integers(0, 256, type_.nbytes(shape), np.uint8).tobytes()


def write(path: Path, order: Literal["<", ">"] = "<", **options: Any) -> None:
    with GGUFWriter(path, byte_order=order, **options) as writer:
        writer.add("general.architecture", "llama")
        for key, (value, type_) in (SCALARS | ARRAYS).items():
            writer.add(key, value, type_)
        for name, type_, shape in TENSORS:
            writer.add_tensor(name, type_, shape, numbers(type_, shape))


TENSORS: list[tuple[str, GGMLType, tuple[int, ...]]] = [
    ("a.weight", GGMLType.F32, (3, 5)),
    ("b.weight", GGMLType.Q4_0, (2, 64)),
    ("c", GGMLType.F16, (7,)),
    ("d", GGMLType.Q6_K, (2, 1, 256)),
    ("e", GGMLType.I8, (1,)),
]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [8, 32, 128])
@pytest.mark.parametrize("order", ORDERS)
def test_what_is_written_is_read(
    tmp_path: Path, order: Literal["<", ">"], alignment: int, version: int
) -> None:
    path = tmp_path / "a.gguf"
    write(path, order, alignment=alignment, version=version)
    with GGUFFile.open(path) as file:
        assert (file.byte_order, file.alignment, file.version) == (order, alignment, version)
        assert file.size % alignment == 0
        for key, (value, type_) in (SCALARS | ARRAYS).items():
            assert file.metadata[key] == value
            assert file.metadata.entry(key).element == type_
        assert [(t.name, t.type, t.shape) for t in file.tensors.values()] == TENSORS
        for name, type_, shape in TENSORS:
            assert (file.tensors[name].offset - file.data_offset) % alignment == 0
            assert bytes(file.tensor_bytes(name)) == numbers(type_, shape)


@pytest.mark.parametrize("order", ORDERS)
def test_gguf_py_reads_what_is_written(tmp_path: Path, order: Literal["<", ">"]) -> None:
    path = tmp_path / "a.gguf"
    write(path, order, alignment=64)
    theirs = gguf.GGUFReader(path)
    assert theirs.alignment == 64
    for key, (value, type_) in (SCALARS | ARRAYS).items():
        field = theirs.get_field(key)
        assert field is not None
        assert field.contents() == value
        assert int(field.types[-1]) == type_
    for tensor, (name, type_, shape) in zip(theirs.tensors, TENSORS, strict=True):
        assert (tensor.name, int(tensor.tensor_type), tuple(tensor.shape)[::-1]) == (name, type_, shape)
        assert tensor.data.tobytes() == numbers(type_, shape)


@pytest.mark.parametrize("order", ORDERS)
def test_what_gguf_py_writes_is_read_and_written_again_byte_for_byte(
    tmp_path: Path, order: Literal["<", ">"]
) -> None:
    path = tmp_path / "theirs.gguf"
    weights = np.arange(60, dtype=np.float32).reshape(4, 15)
    halves = np.arange(9, dtype=np.float16)
    theirs = gguf.GGUFWriter(
        path, "llama", endianess=gguf.GGUFEndian.LITTLE if order == "<" else gguf.GGUFEndian.BIG
    )
    theirs.add_block_count(3)
    theirs.add_rope_freq_base(5e5)
    theirs.add_token_list(["<s>", "tö", ""])
    theirs.add_token_scores([0.0, -1.5, 2.0])
    theirs.add_array("llama.flags", [True, False])
    theirs.add_custom_alignment(64)
    theirs.add_tensor("w", weights.copy())
    theirs.add_tensor("h", halves.copy())
    theirs.write_header_to_file()
    theirs.write_kv_data_to_file()
    theirs.write_tensors_to_file()
    theirs.close()

    again = tmp_path / "ours.gguf"
    with GGUFFile.open(path) as file:
        assert file.byte_order == order
        assert file.metadata.uint("block_count") == 3
        assert file.metadata.float("rope.freq_base") == 5e5
        assert file.metadata["tokenizer.ggml.tokens"] == ["<s>", "tö", ""]
        assert file.metadata.array("tokenizer.ggml.scores").tolist() == [0.0, -1.5, 2.0]
        assert file.metadata.bools("flags") == [True, False]
        assert np.array_equal(np.frombuffer(file.tensor_bytes("w"), order + "f4").reshape(4, 15), weights)
        assert np.array_equal(np.frombuffer(file.tensor_bytes("h"), order + "f2"), halves)
        with GGUFWriter(again, alignment=file.alignment, byte_order=file.byte_order) as writer:
            writer.copy_metadata(file.metadata)
            for t in file.tensors.values():
                writer.add_tensor(t.name, t.type, t.shape, file.tensor_bytes(t.name))
    assert again.read_bytes() == path.read_bytes()


def test_from_one_byte_order_into_the_other(tmp_path: Path) -> None:
    write(tmp_path / "little.gguf", "<")
    with (
        GGUFFile.open(tmp_path / "little.gguf") as file,
        GGUFWriter(tmp_path / "big.gguf", byte_order=">") as writer,
    ):
        writer.copy_metadata(file.metadata)
        for t in file.tensors.values():
            writer.add_tensor(t.name, t.type, t.shape, swap_bytes(t.type, file.tensor_bytes(t.name)))
    with GGUFFile.open(tmp_path / "little.gguf") as little, GGUFFile.open(tmp_path / "big.gguf") as big:
        assert dict(big.metadata) == dict(little.metadata)
        assert big.tensor_bytes("a.weight") != little.tensor_bytes("a.weight")
        for t in big.tensors.values():
            assert swap_bytes(t.type, big.tensor_bytes(t.name)) == little.tensor_bytes(t.name)


def test_texts_that_are_no_utf8_survive_both_ways(tmp_path: Path) -> None:
    texts = [b"\xff\xfe", b"ok", b"\xe2\x96"]
    with GGUFWriter(tmp_path / "a.gguf") as writer:
        writer.add("general.t", texts)
        writer.add("general.s", b"\x80")
    for order in ORDERS:
        with (
            GGUFFile.open(tmp_path / "a.gguf") as file,
            GGUFWriter(tmp_path / f"{ord(order)}.gguf", byte_order=order) as writer,
        ):
            writer.copy_metadata(file.metadata)
        with GGUFFile.open(tmp_path / f"{ord(order)}.gguf") as file:
            assert file.metadata.strings_bytes("general.t") == texts
            assert file.metadata["general.t"] == ["\ufffd\ufffd", "ok", "\ufffd"]
            assert file.metadata.string("general.s") == "\ufffd"


def test_types_chosen_by_default() -> None:
    metadata = metadata_of(
        {
            "small": 7,
            "negative": -7,
            "large": 2**40,
            "very negative": -(2**40),
            "half": 0.5,
            "flag": True,
            "text": "x",
            "ints": [1, 2],
            "longs": [1, 2**40],
            "mixed": [1, 0.5],
            "flags": (True, False),
            "texts": ["a", b"b"],
            "floats": np.array([1, 2], np.float32),
            "int64": np.array([1, 2], np.int64),
            "uint8": bytearray(b"\1\2"),
            "bools": np.array([True]),
        }
    )
    assert {key: metadata.entry(key).element.name for key in metadata} == {
        "small": "UINT32",
        "negative": "INT32",
        "large": "UINT64",
        "very negative": "INT64",
        "half": "FLOAT32",
        "flag": "BOOL",
        "text": "STRING",
        "ints": "INT32",
        "longs": "UINT64",
        "mixed": "FLOAT32",
        "flags": "BOOL",
        "texts": "STRING",
        "floats": "FLOAT32",
        "int64": "INT64",
        "uint8": "UINT8",
        "bools": "BOOL",
    }
    assert metadata["mixed"] == [1.0, 0.5]
    assert metadata["uint8"] == [1, 2]


@pytest.mark.parametrize(
    ("value", "type_", "expected"),
    [
        ([], None, "name it"),
        ([1, "a"], None, "name it"),
        ([[1], [2]], None, "name it"),
        (2**64, None, "no type holds"),
        (300, ValueType.UINT8, "'k'"),
        (-1, ValueType.UINT32, "'k'"),
        (1.5, ValueType.INT32, "'k'"),
        ("a", ValueType.FLOAT32, "'k'"),
        (1, ValueType.STRING, "STRING"),
        (1, ValueType.BOOL, "BOOL"),
        (True, ValueType.UINT32, "UINT32"),
        ([1], ValueType.ARRAY, "arrays of arrays"),
        (np.zeros((2, 2), np.float32), None, "2 dimensions"),
        (np.zeros(2, np.float16), None, "format 'e'"),
        (1e300, ValueType.FLOAT32, "'k'"),
    ],
)
def test_values_that_cannot_be_stored(
    tmp_path: Path, value: Any, type_: ValueType | None, expected: str
) -> None:
    with pytest.raises(GGUFError, match=expected):
        GGUFWriter(tmp_path / "a.gguf").add("k", value, type_)


def test_names_and_shapes_that_cannot_be_stored(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "a.gguf")
    writer.add("k", 1)
    writer.add_tensor("t", GGMLType.I8, (1,), b"a")
    for key in ("k", "", "a\nb", "x" * 65536):
        with pytest.raises(GGUFError, match="key"):
            writer.add(key, 1)
    for name in ("t", "", "x" * 65, "../t", "a b", "ü"):
        with pytest.raises(GGUFError, match="taken or does not name"):
            writer.add_tensor(name, GGMLType.I8, (1,), b"a")
    for type_, shape in ((GGMLType.Q4_0, (31,)), (GGMLType.F32, (-1,)), (GGMLType.F32, (1, 1, 1, 1, 1))):
        with pytest.raises(GGUFError, match="'u'"):
            writer.add_tensor("u", type_, shape, b"")


@pytest.mark.parametrize("alignment", [0, 1, 4, 24, -32, 1 << 30])
def test_alignments_that_cannot_be_written(tmp_path: Path, alignment: int) -> None:
    with pytest.raises(GGUFError, match="power of two"):
        GGUFWriter(tmp_path / "a.gguf", alignment=alignment)


def test_an_alignment_at_odds_with_the_metadata(tmp_path: Path) -> None:
    with (
        pytest.raises(GGUFError, match=r"'general\.alignment' is not 64"),
        GGUFWriter(tmp_path / "a", alignment=64) as writer,
    ):
        writer.add("general.alignment", 32)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(GGUFError, match="version 1"):
        GGUFWriter(tmp_path / "a.gguf", version=1)


# Streaming


def test_data_is_streamed(tmp_path: Path) -> None:
    """A generator is asked for its next chunk only when the one before has been written."""
    path = tmp_path / "a.gguf"
    alive = 0

    def chunks() -> Iterator[np.ndarray[Any, Any]]:
        nonlocal alive
        for index in range(8):
            alive += 1
            yield np.full(1000, index, np.float32)

    with GGUFWriter(path) as writer:
        writer.add_tensor("t", GGMLType.F32, (8, 1000), chunks())
        writer.add_tensor("u", GGMLType.F16, (2, 3), np.arange(6, dtype=np.float16).reshape(2, 3))
        writer.add_tensor("v", GGMLType.F32, (3, 2), np.arange(6, dtype=np.float32).reshape(2, 3).T)
        assert alive == 0
    assert alive == 8
    with GGUFFile.open(path) as file:
        t = np.frombuffer(file.tensor_bytes("t"), np.float32).reshape(8, 1000)
        assert np.array_equal(t, np.repeat(np.arange(8, dtype=np.float32), 1000).reshape(8, 1000))
        assert np.frombuffer(file.tensor_bytes("u"), np.float16).tolist() == [0, 1, 2, 3, 4, 5]
        assert np.frombuffer(file.tensor_bytes("v"), np.float32).tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize("length", [0, 15, 17])
@pytest.mark.parametrize("chunked", [True, False])
def test_data_must_have_its_declared_length(tmp_path: Path, length: int, chunked: bool) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"before")
    data = [bytes(1)] * length if chunked else bytes(length)
    with (
        pytest.raises(GGUFError, match=r"tensor 't': F32 \(2, 2\) takes 16 bytes, but .*came"),
        GGUFWriter(path) as writer,
    ):
        writer.add_tensor("t", GGMLType.F32, (2, 2), data)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["a.gguf"]


def test_nothing_is_left_behind_by_an_error(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield bytes(8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), GGUFWriter(tmp_path / "a.gguf") as writer:
        writer.add_tensor("t", GGMLType.F32, (4,), broken())
    with pytest.raises(ZeroDivisionError), GGUFWriter(tmp_path / "b.gguf") as writer:
        writer.add("k", 1 // 0)
    with (
        pytest.raises(GGUFError, match="cannot be written: No such file"),
        GGUFWriter(tmp_path / "no" / "c.gguf"),
    ):
        pass
    (tmp_path / "d").mkdir()
    with pytest.raises(GGUFError, match="cannot be written"), GGUFWriter(tmp_path / "d"):
        pass
    assert os.listdir(tmp_path) == ["d"]


def test_an_empty_file_is_what_the_format_says(tmp_path: Path) -> None:
    with GGUFWriter(tmp_path / "a.gguf") as writer:
        writer.close()
    assert (tmp_path / "a.gguf").read_bytes() == b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + bytes(8)
