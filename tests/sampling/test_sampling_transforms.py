"""Each selection against a plain definition in Python's own floats."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from puna.sampling.transforms import draw, min_p, softmax, top_k, top_p, typical

Logits = NDArray[np.float32]
TOLERANCE = 2e-6
"""float32 probabilities against float64 ones."""

fractions = st.floats(0, 1, exclude_max=True)


@st.composite
def vectors(draw_from: st.DrawFn, largest: int = 6000) -> Logits:
    """Logits of any size, with many ties or none, some of them impossible, at least one possible."""
    rng = np.random.default_rng(draw_from(st.integers(0, 2**32)))
    size = draw_from(st.integers(1, largest) | st.integers(1, 8))
    logits = rng.normal(0, draw_from(st.sampled_from([0.01, 1.0, 5.0, 30.0])), size)
    logits = np.round(logits, draw_from(st.sampled_from([0, 1, 6])))
    logits[rng.random(size) < draw_from(st.sampled_from([0, 0.1, 0.999]))] = -np.inf
    logits[rng.integers(size)] = rng.normal()
    return logits.astype(np.float32)


def ranked(keys: Sequence[float]) -> list[int]:
    return sorted((i for i in range(len(keys)) if keys[i] > -math.inf), key=lambda i: (-keys[i], i))


def plain_softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    peak = max(logits)
    weights = [math.exp((x - peak) / temperature) for x in logits]
    total = math.fsum(weights)
    return [w / total for w in weights]


@settings(deadline=None)
@given(vectors(), st.floats(0.05, 20))
def test_softmax(logits: Logits, temperature: float) -> None:
    expected = plain_softmax(logits.tolist(), temperature)
    np.testing.assert_allclose(softmax(logits, temperature), expected, rtol=1e-4, atol=1e-7)


def test_softmax_of_huge_logits_does_not_overflow() -> None:
    np.testing.assert_allclose(softmax(np.array([1e30, 1e30, -1e30], np.float32)), [0.5, 0.5, 0])


@settings(deadline=None, max_examples=300)
@given(vectors(), st.integers(1, 80) | st.integers(1, 7000))
def test_top_k_is_the_head_of_a_full_sort(logits: Logits, k: int) -> None:
    assert top_k(logits, k).tolist() == ranked(logits.tolist())[:k]


@pytest.mark.parametrize("size", [262_144, 128_256, 49_152, 32_000, 65 * 64 + 1])
@pytest.mark.parametrize("k", [1, 40, 1000])
def test_top_k_of_real_vocabularies(size: int, k: int) -> None:
    logits = np.random.default_rng(size + k).normal(0, 3, size).astype(np.float32)
    order = np.lexsort((np.arange(size), -logits))
    np.testing.assert_array_equal(top_k(logits, k), order[:k])


def test_top_k_of_equal_logits_takes_the_lowest_ids() -> None:
    assert top_k(np.zeros(10_000, np.float32), 5).tolist() == [0, 1, 2, 3, 4]


def test_top_k_finds_the_largest_in_the_part_that_fills_no_block() -> None:
    logits = np.zeros(64 * 64 + 63, np.float32)
    logits[-3:] = [1, 3, 2]
    assert top_k(logits, 4).tolist() == [logits.size - 2, logits.size - 1, logits.size - 3, 0]


def test_top_k_finds_many_in_one_block() -> None:
    logits = np.arange(64 * 64, dtype=np.float32) % 64  # columns of the fold are constant
    assert top_k(logits, 3).tolist() == [63, 127, 191]


def test_top_k_skips_impossible_tokens() -> None:
    logits = np.full(5000, -np.inf, np.float32)
    logits[[17, 4999]] = [-5, -4]
    assert top_k(logits, 40).tolist() == [4999, 17]


def assert_mass(kept: Sequence[int], probabilities: Sequence[float], mass: float, possible: int) -> None:
    """`kept`, in the order of taking, reaches the mass with its last member and not before."""
    assert kept
    total = math.fsum(probabilities[i] for i in kept)
    assert total >= mass - TOLERANCE or len(kept) == possible
    assert total - probabilities[kept[-1]] < mass + TOLERANCE or len(kept) == 1


@settings(deadline=None)
@given(vectors(), fractions)
def test_top_p_is_the_shortest_likely_head(logits: Logits, p: float) -> None:
    order = ranked(logits.tolist())
    kept = top_p(logits, p).tolist()
    assert kept == order[: len(kept)]
    assert_mass(kept, plain_softmax(logits.tolist()), p, len(order))


def test_top_p_keeps_the_token_that_crosses() -> None:
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))
    assert top_p(logits, 0.65).tolist() == [1, 3]
    assert top_p(logits, 0.75).tolist() == [1, 3, 2]


@pytest.mark.parametrize("p", [0.0, 1e-30])
def test_a_tiny_top_p_keeps_one(p: float) -> None:
    assert top_p(np.array([1, 2, 2], np.float32), p).tolist() == [1]


def test_top_p_of_a_flat_vocabulary_looks_past_its_first_guess() -> None:
    logits = np.zeros(50_000, np.float32)
    assert top_p(logits, 0.5).size == pytest.approx(25_000, abs=2)


@settings(deadline=None)
@given(vectors(), fractions)
def test_typical_takes_the_surprises_nearest_to_the_entropy(logits: Logits, p: float) -> None:
    probabilities = plain_softmax(logits.tolist())
    entropy = -math.fsum(q * math.log(q) for q in probabilities if q > 0)
    distance = [abs(-math.log(q) - entropy) if q > 1e-37 else math.inf for q in probabilities]
    kept = typical(logits, p).tolist()
    assert all(a < b for a, b in pairwise(kept))
    kept.sort(key=lambda i: distance[i])
    left = set(range(logits.size)) - set(kept)
    if left:
        assert distance[kept[-1]] <= min(distance[i] for i in left) + 1e-3
    assert_mass(kept, probabilities, p, sum(d < math.inf for d in distance))


def test_typical_may_drop_the_most_likely() -> None:
    # Surprises 0.51, 2.30 and entropy 1.22: the many rare tokens are nearer to it.
    logits = np.log(np.array([0.6, 0.1, 0.1, 0.1, 0.1], np.float32))
    assert typical(logits, 0.2).tolist() == [0]
    logits = np.log(np.array([0.35] + [0.05] * 13, np.float32))
    assert typical(logits, 0.2).tolist() == [1, 2, 3, 4]


@settings(deadline=None)
@given(vectors(), st.floats(1e-6, 1))
def test_min_p_keeps_what_is_likely_enough(logits: Logits, p: float) -> None:
    peak = max(logits.tolist())
    kept = set(min_p(logits, p).tolist())
    for i, logit in enumerate(logits.tolist()):
        ratio = math.exp(logit - peak)
        if abs(ratio - p) > 1e-4 * p:
            assert (i in kept) == (ratio > p)


def test_min_p_of_one_keeps_the_equally_likely() -> None:
    assert min_p(np.array([1, 2, 2], np.float32), 1.0).tolist() == [1, 2]


@pytest.mark.parametrize("size", [1, 2, 7, 300, 64 * 64 - 1, 64 * 64, 64 * 64 + 17, 10_000])
def test_draw_gives_every_position_its_share(size: int) -> None:
    rng = np.random.default_rng(size)
    probabilities = rng.exponential(1, size).astype(np.float32)
    probabilities[rng.random(size) < 0.3] = 0
    probabilities[rng.integers(size)] = 1
    probabilities /= probabilities.sum()
    draws = 8_000
    positions = [draw(probabilities, (i + 0.5) / draws) for i in range(draws)]
    counts = np.bincount(positions, minlength=size)
    assert np.abs(counts - draws * probabilities).max() <= 1.1
    assert counts[probabilities == 0].sum() == 0


@pytest.mark.parametrize("size", [3, 5000])
@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53, 1.0])
def test_draw_at_the_ends_takes_a_possible_token(size: int, uniform: float) -> None:
    probabilities = np.zeros(size, np.float32)
    probabilities[size // 2] = 0.3
    assert draw(probabilities, uniform) == size // 2
