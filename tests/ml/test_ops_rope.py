"""Rotary embeddings against the papers' formulas, written with complex numbers, and against transformers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from puna.ml import RopeParameters, RopeType
from puna.ml.array import Array

if TYPE_CHECKING:
    from tests.ml.conftest import Lab

TOKENS, HEADS, SIZE = 7, 3, 32
POSITIONS = np.array([0, 1, 2, 5, 40, 333, 1000], np.int32)


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def turned(heads: Array, angles: Array, pairs: list[tuple[int, int]], magnitude: float = 1.0) -> Array:
    """Each pair (i, j) of a head as the complex number x_i + i x_j, times e^(i angle) of (tokens, pairs)."""
    result = heads.astype(np.float64).copy()
    for place, (i, j) in enumerate(pairs):
        numbers = (heads[..., i] + 1j * heads[..., j].astype(np.complex128)) * magnitude
        numbers = numbers * np.exp(1j * angles[:, place])[:, None]
        result[..., i], result[..., j] = numbers.real, numbers.imag
    return result


def pairs_of(kind: RopeType, dimensions: int) -> list[tuple[int, int]]:
    if kind is RopeType.NORMAL:
        return [(2 * i, 2 * i + 1) for i in range(dimensions // 2)]
    return [(i, i + dimensions // 2) for i in range(dimensions // 2)]


def frequencies(dimensions: int, base: float) -> Array:
    return np.array([base ** (-2 * i / dimensions) for i in range(dimensions // 2)])


def run(
    lab: Lab, heads: Array, p: RopeParameters, positions: Array = POSITIONS, factors: Array | None = None
) -> Array:
    if factors is None:
        return lab.run(lambda x, at: x.rope(at, p), heads, positions)
    return lab.run(lambda x, at, by: x.rope(at, p, by), heads, positions, factors)


@pytest.mark.parametrize("kind", [RopeType.NORMAL, RopeType.NEOX])
@pytest.mark.parametrize("dimensions", [SIZE, 16, 2])
@pytest.mark.parametrize("base", [10000.0, 500000.0])
def test_plain(lab: Lab, kind: RopeType, dimensions: int, base: float) -> None:
    heads = normal(1, TOKENS, HEADS, SIZE)
    angles = POSITIONS[:, None] * frequencies(dimensions, base)
    actual = run(lab, heads, RopeParameters(dimensions, base, type=kind))
    lab.close_to(actual, turned(heads, angles, pairs_of(kind, dimensions)), 1e-4)
    np.testing.assert_array_equal(actual[..., dimensions:], heads[..., dimensions:])


def test_heads_of_a_fused_projection(lab: Lab) -> None:
    both = normal(1, TOKENS, 2 * HEADS, SIZE)
    p = RopeParameters(SIZE, type=RopeType.NEOX)
    actual = lab.run(lambda x, at: x.slice(1, 1, 1 + HEADS).rope(at, p), both, POSITIONS)
    np.testing.assert_allclose(actual, run(lab, both[:, 1 : 1 + HEADS].copy(), p), rtol=1e-6)
    actual = lab.run(lambda x, at: x.permute(1, 0, 2).rope(at, p), both.transpose(1, 0, 2).copy(), POSITIONS)
    np.testing.assert_allclose(actual, run(lab, both, p), rtol=1e-6)


def test_linear_interpolation(lab: Lab) -> None:
    heads = normal(1, TOKENS, HEADS, SIZE)
    angles = POSITIONS[:, None] / 8 * frequencies(SIZE, 10000)
    actual = run(lab, heads, RopeParameters(SIZE, scale=8.0))
    lab.close_to(actual, turned(heads, angles, pairs_of(RopeType.NORMAL, SIZE)), 1e-4)


def hugging_face(kind: str, base: float, **scaling: float) -> tuple[Array, float]:
    """Frequencies and magnitude as transformers computes them."""
    parameters = {"rope_type": kind, "rope_theta": base, **scaling}
    config = LlamaConfig(
        hidden_size=SIZE * 2,
        num_attention_heads=2,
        max_position_embeddings=int(scaling["original_max_position_embeddings"]),
        rope_parameters=parameters,
    )
    inverse, magnitude = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    return inverse.double().numpy(), float(magnitude)


def llama3_factors(base: float, factor: float, low: float, high: float, original: int) -> Array:
    """What the converters store in `rope_freqs.weight`."""
    plain = frequencies(SIZE, base)
    length = 2 * math.pi / plain
    smooth = (original / length - low) / (high - low)
    mixed = (1 - smooth) / factor + smooth
    shares = np.where(length < original / high, 1.0, np.where(length > original / low, 1 / factor, mixed))
    return (1 / shares).astype(np.float32)


@pytest.mark.parametrize("kind", [RopeType.NORMAL, RopeType.NEOX])
def test_llama3_factors(lab: Lab, kind: RopeType) -> None:
    expected, magnitude = hugging_face(
        "llama3",
        500000.0,
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=512,
    )
    assert magnitude == 1
    factors = llama3_factors(500000.0, 8.0, 1.0, 4.0, 512)
    assert factors.min() == 1 and factors.max() == 8
    heads = normal(1, TOKENS, HEADS, SIZE)
    actual = run(lab, heads, RopeParameters(SIZE, 500000.0, type=kind), factors=factors)
    lab.close_to(actual, turned(heads, POSITIONS[:, None] * expected, pairs_of(kind, SIZE)), 1e-4, 1e-4)


@pytest.mark.parametrize("scale", [4.0, 16.0])
@pytest.mark.parametrize("original", [256, 4096])
def test_yarn(lab: Lab, scale: float, original: int) -> None:
    expected, magnitude = hugging_face(
        "yarn", 10000.0, factor=scale, original_max_position_embeddings=original
    )
    assert magnitude == pytest.approx(1 + 0.1 * math.log(scale))
    heads = normal(1, TOKENS, HEADS, SIZE)
    p = RopeParameters(SIZE, 10000.0, scale, RopeType.NEOX, original, extrapolation=1.0)
    angles = POSITIONS[:, None] * expected
    lab.close_to(run(lab, heads, p), turned(heads, angles, pairs_of(p.type, SIZE), magnitude), 1e-4, 1e-4)
    plain = replace(p, attention_factor=1 / magnitude)
    lab.close_to(run(lab, heads, plain), turned(heads, angles, pairs_of(p.type, SIZE)), 1e-4, 1e-4)


def test_attention_factor_without_yarn(lab: Lab) -> None:
    heads = normal(1, TOKENS, HEADS, SIZE)
    plain = run(lab, heads, RopeParameters(SIZE))
    long = run(lab, heads, RopeParameters(SIZE, attention_factor=1.25))
    np.testing.assert_allclose(long, plain * 1.25, rtol=1e-5, atol=1e-6)


def section_positions(seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, 200, (4, TOKENS)).astype(np.int32)


def test_sections(lab: Lab) -> None:
    """Qwen2-VL (arXiv:2409.12191): the pairs are split into runs that go by time, height and width."""
    heads, at = normal(1, TOKENS, HEADS, SIZE), section_positions(2)
    p = RopeParameters(SIZE, 10000.0, type=RopeType.MULTI, sections=(4, 6, 6))
    owner = [0] * 4 + [1] * 6 + [2] * 6
    angles = at[owner].T * frequencies(SIZE, 10000)
    lab.close_to(run(lab, heads, p, at.reshape(-1)), turned(heads, angles, pairs_of(p.type, SIZE)), 1e-4)


def test_interleaved_sections(lab: Lab) -> None:
    """Qwen3-VL: time, height, width, time, height, width, …; what is left over goes by time."""
    heads, at = normal(1, TOKENS, HEADS, SIZE), section_positions(2)
    p = RopeParameters(SIZE, 10000.0, type=RopeType.INTERLEAVED_MULTI, sections=(6, 5, 5))
    owner = [0, 1, 2] * 5 + [0]
    angles = at[owner].T * frequencies(SIZE, 10000)
    lab.close_to(run(lab, heads, p, at.reshape(-1)), turned(heads, angles, pairs_of(p.type, SIZE)), 1e-4)


def test_vision(lab: Lab) -> None:
    """Vision towers: the first half of the pairs goes by height, the rest by width, each from frequency 1."""
    heads, at = normal(1, TOKENS, HEADS, SIZE), section_positions(2)
    half, quarter = SIZE // 2, SIZE // 4
    p = RopeParameters(half, 10000.0, type=RopeType.VISION, sections=(quarter, quarter, quarter, quarter))
    each = np.array([10000.0 ** (-2 * i / half) for i in range(quarter)])
    angles = np.concatenate([at[0][:, None] * each, at[1][:, None] * each], axis=1)
    pairs = [(i, i + half) for i in range(half)]
    lab.close_to(run(lab, heads, p, at.reshape(-1)), turned(heads, angles, pairs), 1e-4)
