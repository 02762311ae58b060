"""The types of the options that a Modelfile sets."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.errors import ModelfileError
from puna.modelfile.parameters import KINDS, Kind, parameters
from puna.modelfile.parser import parse


def one(key: str, value: str) -> object:
    values, warnings = parameters(parse(f"FROM m\nPARAMETER {key} {value}"))
    assert warnings == []
    return values[key]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        *((key, "-12", -12) for key, kind in KINDS.items() if kind is Kind.INT),
        *((key, "0.25", 0.25) for key, kind in KINDS.items() if kind is Kind.FLOAT),
        ("num_ctx", "+4096", 4096),
        ("num_ctx", "9223372036854775807", 2**63 - 1),
        ("seed", "-9223372036854775808", -(2**63)),
        ("num_ctx", "007", 7),
        ("num_ctx", '"8"', 8),
        ("temperature", "1", 1.0),
        ("temperature", ".5", 0.5),
        ("temperature", "5.", 5.0),
        ("temperature", "1e-3", 0.001),
        ("temperature", "0.1", 0.1),
        ("temperature", "0.123456789", 0.12345679),
        ("temperature", "1e-60", 0.0),
        ("temperature", "3.4e38", 3.4e38),
        *(("use_mmap", text, True) for text in ("1", "t", "T", "TRUE", "true", "True")),
        *(("use_mmap", text, False) for text in ("0", "f", "F", "FALSE", "false", "False")),
        ("stop", "<|end|>", ["<|end|>"]),
        ("stop", "", [""]),
    ],
)
def test_values(key: str, text: str, value: object) -> None:
    found = one(key, text)
    assert found == value
    assert type(found) is type(value)


def test_the_last_counts_but_every_stop() -> None:
    text = "FROM m\nPARAMETER stop a\nPARAMETER seed 1\nPARAMETER stop a\nPARAMETER seed 2\nPARAMETER stop b"
    assert parameters(parse(text)) == ({"stop": ["a", "a", "b"], "seed": 2}, [])


def test_deprecated_options_are_left_out_with_a_warning() -> None:
    text = "FROM m\nPARAMETER low_vram maybe\nPARAMETER top_k 3\nPARAMETER penalize_newline x"
    assert parameters(parse(text)) == (
        {"top_k": 3},
        ["parameter low_vram is deprecated", "parameter penalize_newline is deprecated"],
    )


@pytest.mark.parametrize(
    ("key", "text", "column", "message"),
    [
        ("num_ctx", "4k", 19, "invalid int value [4k]"),
        ("num_ctx", "4096.0", 19, "invalid int value [4096.0]"),
        ("num_ctx", "1e309", 19, "invalid int value [1e309]"),
        ("num_ctx", "9223372036854775808", 19, "invalid int value [9223372036854775808]"),
        ("num_ctx", "", 19, "invalid int value []"),
        ("num_ctx", "1_000", 19, "invalid int value [1_000]"),
        ("num_ctx", "٣", 19, "invalid int value [٣]"),
        ("num_ctx", "9" * 100000, 19, f"invalid int value [{'9' * 100}]"),
        ("num_ctx", '"4\n5"', 19, "invalid int value [4\\n5]"),
        ("top_p", "high", 17, "invalid float value [high]"),
        ("top_p", "1e309", 17, "invalid float value [1e309]"),
        ("top_p", "1e39", 17, "invalid float value [1e39]"),
        ("top_p", "nan", 17, "invalid float value [nan]"),
        ("top_p", "inf", 17, "invalid float value [inf]"),
        ("top_p", "0x1p-2", 17, "invalid float value [0x1p-2]"),
        ("top_p", "1,5", 17, "invalid float value [1,5]"),
        ("top_p", "9" * 100000, 17, f"invalid float value [{'9' * 100}]"),
        ("use_mmap", "yes", 20, "invalid bool value [yes]"),
        ("numa", "true", 1, "unknown parameter 'numa'"),
        ("num_gqa", "8", 1, "unknown parameter 'num_gqa'"),
        ("Temperature", "1", 1, "unknown parameter 'Temperature'"),
    ],
)
def test_faults_have_their_text_and_place(key: str, text: str, column: int, message: str) -> None:
    with pytest.raises(ModelfileError) as caught:
        one(key, text)
    assert str(caught.value) == f"line 2, column {column}: {message}"


@given(st.integers(0, 2**32 - 1).map(lambda bits: struct.unpack("<f", struct.pack("<I", bits))[0]))
def test_floats_are_the_shortest_of_single_precision(number: float) -> None:
    if not np.isfinite(number):
        return
    text = format(number, ".17g")
    assert one("temperature", text) == float(str(np.float32(number)))
