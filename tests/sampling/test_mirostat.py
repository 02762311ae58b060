"""Mirostat against the formulas of the paper (arXiv:2007.14966), written out literally."""

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from puna.sampling import Sampler, SamplingParameters
from puna.sampling.mirostat import kept_by_zipf, select_v1, select_v2, updated, zipf_exponent
from puna.sampling.transforms import Positions

Logits = NDArray[np.float32]


def random_logits(seed: int, size: int, spread: float = 2.0) -> Logits:
    return np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)


def sorted_probabilities(logits: Logits) -> list[float]:
    weights = np.exp(np.sort(logits.astype(np.float64))[::-1])
    return [float(w) for w in weights / weights.sum()]


def literal_exponent(p: list[float], m: int = 100) -> float:
    """Equation 30: s = sum t_i b_i / sum t_i², i from 1 to m - 1."""
    top = bottom = 0.0
    for i in range(1, min(m, len(p))):
        t_i = math.log((i + 1) / i)
        b_i = math.log(p[i - 1] / p[i])
        top += t_i * b_i
        bottom += t_i**2
    return top / bottom


def literal_k(s: float, mu: float, n: int) -> float:
    """Algorithm 1: k = (e 2^mu / (1 - N^-e))^(1/s), e = s - 1."""
    e = s - 1
    return float((e * 2**mu / (1 - n ** (-e))) ** (1 / s))


@pytest.mark.parametrize("size", [2, 3, 50, 100, 101, 5000])
@pytest.mark.parametrize("mu", [0.5, 3.0, 10.0])
def test_version_1_keeps_as_many_as_the_paper(size: int, mu: float) -> None:
    for seed in range(5):
        logits = random_logits(seed, size, spread=1 + seed)
        s = literal_exponent(sorted_probabilities(logits))
        descending = np.sort(logits)[::-1]
        assert zipf_exponent(descending[:100]) == pytest.approx(s, rel=1e-5)
        expected = min(max(int(literal_k(s, mu, size)), 1), size)
        kept = select_v1(logits, mu)
        assert abs(kept.size - expected) <= 1  # the real number may lie on a whole one
        assert set(kept.tolist()) == set(np.argsort(-logits, kind="stable")[: kept.size].tolist())


@settings(deadline=None)
@given(st.floats(0.05, 20), st.floats(0, 30), st.integers(2, 300_000))
def test_the_logarithmic_formula_is_the_papers(exponent: float, mu: float, vocab_size: int) -> None:
    if abs(exponent - 1) < 1e-6:
        return
    try:
        k = literal_k(exponent, mu, vocab_size)
    except OverflowError:
        k = math.inf
    kept = kept_by_zipf(exponent, mu, vocab_size)
    if k >= vocab_size:
        assert kept >= vocab_size * (1 - 1e-6) - 1
    else:
        assert kept == pytest.approx(max(int(k), 1), rel=1e-6, abs=1)


def test_an_exponent_of_one_is_the_limit() -> None:
    near = [kept_by_zipf(1 + e, 8.0, 50_000) for e in (-1e-7, 0.0, 1e-7)]
    assert near[0] == near[1] == near[2] == int(2**8 / math.log(50_000))


@pytest.mark.parametrize(("mu", "kept"), [(5.0, 1), (20.0, 1000)])
def test_a_flat_distribution_is_kept_whole_or_not_at_all(mu: float, kept: int) -> None:
    assert select_v1(np.zeros(1000, np.float32), mu).size == kept


@pytest.mark.parametrize("mu", [-1e6, 1e6])
def test_far_targets_do_not_overflow(mu: float) -> None:
    logits = random_logits(0, 500)
    for select in (select_v1, select_v2):
        assert select(logits, mu).size == (1 if mu < 0 else 500)


@pytest.mark.parametrize("select", [select_v1, select_v2])
def test_a_single_possible_token_is_kept(select: Callable[[Logits, float], Positions]) -> None:
    logits = np.full(300, -np.inf, np.float32)
    logits[7] = 1
    assert select(logits, 4.0).tolist() == [7]
    assert select(np.zeros(1, np.float32), 4.0).tolist() == [0]


@pytest.mark.parametrize("mu", [0.0, 0.3, 1.0, 4.0, 9.0, 40.0])
def test_version_2_keeps_what_surprises_at_most_mu(mu: float) -> None:
    for seed in range(10):
        logits = random_logits(seed, 3000, spread=1 + seed / 2)
        weights = np.exp(logits.astype(np.float64))
        surprise = -np.log2(weights / weights.sum())
        kept = set(select_v2(logits, mu).tolist())
        if surprise.min() > mu:
            assert kept == {int(logits.argmax())}
            continue
        certain = np.abs(surprise - mu) > 1e-4
        assert {i for i in kept if certain[i]} == set(np.flatnonzero((surprise <= mu) & certain).tolist())


def test_mu_moves_against_the_error() -> None:
    assert updated(10.0, 2**-5, 3.0, 0.1) == pytest.approx(10 - 0.1 * (5 - 3))


@pytest.mark.parametrize("version", [1, 2])
def test_a_literal_run_chooses_the_same_tokens_and_settles_at_tau(version: int) -> None:
    """The algorithm, fed with the sampler's own uniform numbers."""
    tau, eta, seed = 3.0, 0.2, 11
    logits = random_logits(4, 800)
    parameters = SamplingParameters(
        mirostat=version, mirostat_tau=tau, mirostat_eta=eta, temperature=1, seed=seed
    )
    sampler = Sampler(parameters, logits.size)
    numbers = random.Random(seed)
    order = np.argsort(-logits, kind="stable")
    p = sorted_probabilities(logits)
    mu, errors = 2 * tau, []
    for _ in range(400):
        if version == 1:
            k = min(max(int(literal_k(literal_exponent(p), mu, len(p))), 1), len(p))
        else:
            k = max(sum(-math.log2(q) <= mu for q in p), 1)
        ids = order[:k] if version == 1 and k < len(p) else np.sort(order[:k])
        kept = np.exp(logits[ids].astype(np.float64))
        kept /= kept.sum()
        position = int(np.searchsorted(np.cumsum(kept), numbers.random(), side="right"))
        assert sampler.sample(logits).token == ids[position]
        errors.append(-math.log2(kept[position]) - tau)
        mu -= eta * errors[-1]
    assert abs(float(np.mean(errors[100:]))) < 0.1
