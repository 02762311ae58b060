"""Block formats of the reference backend against gguf-py."""

import numpy as np
import pytest

import gguf
from puna.errors import InvalidOption, UnsupportedModel
from puna.gguf import GGMLType
from puna.ml.backends.reference import elements, quants


@pytest.mark.parametrize("type_", sorted(quants.DECODABLE), ids=lambda type_: type_.name)
def test_decoding(type_: GGMLType) -> None:
    """Any bytes are blocks; scales that are no numbers must come out alike."""
    blocks = np.random.default_rng(1).integers(0, 256, (200, type_.type_size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[type_.name])
        np.testing.assert_array_equal(quants.decode(blocks, type_), expected)


@pytest.mark.parametrize("type_", sorted(quants.ENCODABLE), ids=lambda type_: type_.name)
def test_encoding(type_: GGMLType) -> None:
    rng = np.random.default_rng(2)
    random = rng.standard_normal((200, type_.block_size)) * rng.uniform(0.01, 100, (200, 1))
    even = [np.zeros((1, type_.block_size)), np.ones((1, type_.block_size))]
    rows = np.concatenate([random, *even]).astype(np.float32)
    expected = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[type_.name])
    np.testing.assert_array_equal(quants.encode(rows, type_), expected)


def test_bfloat16() -> None:
    values = np.random.default_rng(3).standard_normal(1000).astype(np.float32) * 1e3
    expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16).view(np.uint16)
    stored = elements.stored(values, GGMLType.BF16)
    np.testing.assert_array_equal(stored, expected)
    assert np.isnan(elements.numbers(elements.stored(np.array([np.nan]), GGMLType.BF16), GGMLType.BF16))


def test_types_without_a_decoder() -> None:
    with pytest.raises(UnsupportedModel, match="IQ3_S"):
        elements.numbers(np.zeros(1, elements.array_type(GGMLType.IQ3_S)), GGMLType.IQ3_S)
    with pytest.raises(InvalidOption, match="Q4_K"):
        elements.stored(np.zeros(256), GGMLType.Q4_K)
