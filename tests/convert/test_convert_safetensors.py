"""Safetensors files: what is sound is read as the library reads it, all else is one clear error."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from puna.convert.elements import converted
from puna.convert.safetensors import read_tensors
from puna.errors import FormatError
from puna.gguf import GGMLType

ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def written(path: Path, header: Any, data: bytes = bytes(16)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": ENTRY | changes}


def test_tensors_are_read_as_the_library_reads_them(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tensors: dict[str, Any] = {
        "b": random.standard_normal((300, 1000), np.float32),
        "a": random.standard_normal((3, 1, 2)).astype(np.float16),
        "none": np.zeros((0, 4), np.float32),
        "one": np.array(2.5, np.float64),
        "whole": np.arange(5),
    }
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"format": "np"})
    expected = load_file(path)
    found = read_tensors(path)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.shape == expected[name].shape
        assert b"".join(tensor.chunks()) == expected[name].tobytes()


DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

BAD: dict[str, tuple[Any, bytes, str]] = {
    "not JSON": (b"{nonsense}", b"", "its header is damaged"),
    "no object": (b"[1, 2, 3]", b"", "its header is no JSON object"),
    "deep": (DEEP, b"", "its header is damaged"),
    "not UTF-8": (b'{"\xff": 1}', b"", "its header is damaged"),
    "twice": (b'{"a": 1, "a": 2}', b"", "'a' is there twice"),
    "no description": ({"a": 5}, b"", "is not described by"),
    "more than a description": ({"a": ENTRY | {"x": 1}}, bytes(16), "is not described by"),
    "unknown type": (entry(dtype="F31"), bytes(16), "the unknown type 'F31'"),
    "type is no text": (entry(dtype=[1]), bytes(16), "the unknown type"),
    "negative size": (entry(shape=[-2, -2]), bytes(16), "no sensible shape"),
    "size is a float": (entry(shape=[2.0, 2]), bytes(16), "no sensible shape"),
    "size is a bool": (entry(shape=[True, 4]), bytes(16), "no sensible shape"),
    "product overflows": (entry(shape=[2**33, 2**33]), bytes(16), "its offsets are 0 and 16"),
    "many axes": (entry(shape=[1] * 9, data_offsets=[0, 4]), bytes(4), "no sensible shape"),
    "reversed": (entry(data_offsets=[16, 0]), bytes(16), "its offsets are 16 and 0"),
    "offset is a float": (entry(data_offsets=[0, 16.0]), bytes(16), "no sensible offsets"),
    "negative offset": (entry(data_offsets=[-16, 0]), bytes(16), "no sensible offsets"),
    "three offsets": (entry(data_offsets=[0, 8, 16]), bytes(16), "no sensible offsets"),
    "outside": (entry(data_offsets=[16, 32]), bytes(16), "or a hole is before it"),
    "overlap": ({"a": ENTRY, "b": ENTRY}, bytes(16), "overlaps another"),
    "cut short": (entry(), bytes(15), "end at byte"),
    "something behind": (entry(), bytes(17), "end at byte"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_damaged_header_is_one_clear_error(case: str, tmp_path: Path) -> None:
    header, data, message = BAD[case]
    with pytest.raises(FormatError, match=r"^model\.safetensors") as caught:
        read_tensors(written(tmp_path / "model.safetensors", header, data))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has 0 bytes"),
        (b"\x05\0\0\0\0", "it has 5 bytes"),
        (struct.pack("<Q", 0) + b"{}", "a header of 0 bytes"),
        (struct.pack("<Q", 6) + b"{}   ", "a header of 6 bytes in 13"),
        (struct.pack("<Q", 1 << 63) + b"{}", "a header of 9223372036854775808 bytes"),
        (struct.pack("<Q", (1 << 64) - 1) + b"{}", "a header of 18446744073709551615 bytes"),
    ],
)
def test_a_length_that_cannot_be(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="is no safetensors file") as caught:
        read_tensors(path)
    assert message in str(caught.value)


def test_a_name_that_is_twice_among_very_many_is_found(tmp_path: Path) -> None:
    """Comparing each name with every other would take minutes."""
    header = ",".join(f'"{number % 199_999}": 1' for number in range(199_999, 1, -1))
    path = written(tmp_path / "model.safetensors", f'{{{header}, "7": 1}}'.encode(), b"")
    with pytest.raises(FormatError, match="'7' is there twice"):
        read_tensors(path)


def test_a_header_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 200 << 20))
        file.truncate(300 << 20)
    with pytest.raises(FormatError, match="is the limit"):
        read_tensors(path)


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match="is not a regular file"):
        read_tensors(tmp_path / "model.safetensors")


def test_elements_are_rounded_to_nearest(tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal(300_000).astype(np.float32)
    save_file(
        {"x": values, "half": values.astype(np.float16), "double": values.astype(np.float64)},
        path := tmp_path / "model.safetensors",
    )
    found = read_tensors(path)

    def elements(name: str, target: GGMLType, kind: Any) -> Any:
        return np.frombuffer(b"".join(converted(found[name], target)), kind)

    assert np.array_equal(elements("x", GGMLType.F16, np.float16), values.astype(np.float16))
    assert np.array_equal(
        elements("half", GGMLType.F32, np.float32), values.astype(np.float16).astype(np.float32)
    )
    assert np.array_equal(elements("double", GGMLType.F32, np.float32), values)
    assert np.array_equal(elements("double", GGMLType.F16, np.float16), values.astype(np.float16))


def test_brain_floats_are_widened_to_the_bit(tmp_path: Path) -> None:
    bits = np.random.default_rng(2).integers(0, 1 << 16, 8, np.uint16)
    header = {"x": {"dtype": "BF16", "shape": [8], "data_offsets": [0, 16]}}
    tensor = read_tensors(written(tmp_path / "model.safetensors", header, bits.tobytes()))["x"]
    found = np.frombuffer(b"".join(converted(tensor, GGMLType.F32)), np.uint32)
    assert np.array_equal(found, bits.astype(np.uint32) << 16)


def test_numbers_too_large_for_half_precision(tmp_path: Path) -> None:
    save_file({"x": np.array([7e4], np.float32)}, path := tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match="'x' has numbers too large for F16"):
        list(converted(read_tensors(path)["x"], GGMLType.F16))
