"""The sampler as a whole: greedy choice, frequencies, order, seeds, history, masks, logprobs, errors."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from puna.errors import BackendError, InvalidOption
from puna.sampling import Choice, Sampler, SamplingParameters
from puna.sampling.sampler import distribution, selections

Logits = NDArray[np.float32]

PLAIN = SamplingParameters(temperature=1, top_k=0, top_p=1, seed=7)
GREEDY = SamplingParameters(temperature=0)
VARIANTS = {
    "greedy": GREEDY,
    "defaults": SamplingParameters(seed=1),
    "plain": PLAIN,
    "typical": replace(PLAIN, typical_p=0.5),
    "min_p": replace(PLAIN, min_p=0.3),
    "penalties": replace(PLAIN, repeat_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2),
    "bias": replace(PLAIN, logit_bias={0: 1000.0}),
    "mirostat 1": replace(PLAIN, mirostat=1),
    "mirostat 2": replace(PLAIN, mirostat=2),
    "hot": replace(PLAIN, temperature=1000),
    "cold": replace(PLAIN, temperature=1e-300),
}
every_variant = pytest.mark.parametrize("parameters", VARIANTS.values(), ids=VARIANTS)


def random_logits(seed: int, size: int, spread: float = 2.0) -> Logits:
    return np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)


def frequencies(parameters: SamplingParameters, logits: Logits, draws: int) -> NDArray[np.float64]:
    sampler = Sampler(parameters, logits.size)
    return np.bincount([sampler.sample(logits).token for _ in range(draws)], minlength=logits.size) / draws


def assert_close_to(found: NDArray[np.float64], expected: NDArray[np.float64], draws: int) -> None:
    deviation = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(found - expected) <= 4 * deviation).all()
    assert found[expected == 0].sum() == 0


# Greedy


def test_zero_temperature_takes_the_first_maximum() -> None:
    assert Sampler(GREEDY, 5).sample(np.array([1, 3, 2, 3, 3], np.float32)) == Choice(1)


def test_zero_temperature_comes_after_bias_and_penalties() -> None:
    logits = np.array([1.0, 2.0, 1.8, -1.0], np.float32)
    assert Sampler(replace(GREEDY, logit_bias={3: 4.0}), 4).sample(logits).token == 3
    assert Sampler(replace(GREEDY, repeat_penalty=1.2), 4, [1]).sample(logits).token == 2
    assert Sampler(replace(GREEDY, presence_penalty=0.5), 4, [1]).sample(logits).token == 2
    assert Sampler(replace(GREEDY, frequency_penalty=0.15), 4, [1]).sample(logits).token == 1
    assert Sampler(replace(GREEDY, frequency_penalty=0.15), 4, [1, 1]).sample(logits).token == 2


@pytest.mark.parametrize("mirostat", [0, 1, 2])
def test_zero_temperature_beats_every_other_choice(mirostat: int) -> None:
    parameters = SamplingParameters(temperature=0, mirostat=mirostat, typical_p=0.1, top_k=3, min_p=0.5)
    logits = random_logits(0, 1000)
    assert Sampler(parameters, 1000).sample(logits).token == logits.argmax()


@pytest.mark.parametrize(
    "parameters", [replace(PLAIN, top_k=1), replace(PLAIN, top_p=0), replace(PLAIN, min_p=1)]
)
def test_cuts_to_one_are_greedy(parameters: SamplingParameters) -> None:
    for seed in range(10):
        logits = random_logits(seed, 500)
        assert Sampler(parameters, 500).sample(logits).token == logits.argmax()


# Frequencies


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("size", [7, 5000])
def test_tokens_come_as_often_as_they_are_likely(temperature: float, size: int) -> None:
    logits = random_logits(1, size)
    logits[0] = -np.inf
    expected = np.exp(logits.astype(np.float64) / temperature)
    draws = 10_000
    found = frequencies(replace(PLAIN, temperature=temperature), logits, draws)
    if size > 100:  # too many tokens to judge one by one: fold them
        expected, found = (x.reshape(50, 100).sum(axis=1) for x in (expected, found))
    assert_close_to(found, expected / expected.sum(), draws)


def test_frequencies_after_the_whole_chain() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.04, 0.01], np.float32))
    parameters = replace(PLAIN, top_k=5, top_p=0.9, min_p=0.3, temperature=2)
    # top_k drops .01; of the rest, .4 .3 .15 .1 reach 0.9; .1 is under 0.3 × .4; temperature 2 takes roots.
    expected = np.sqrt(np.array([0.4, 0.3, 0.15, 0, 0, 0]))
    assert_close_to(frequencies(parameters, logits, 10_000), expected / expected.sum(), 10_000)


# Order of the chain


def kept(logits: Logits, parameters: SamplingParameters) -> dict[int, float]:
    ids, probabilities = distribution(logits, selections(parameters), parameters.temperature)
    names = range(logits.size) if ids is None else ids.tolist()
    return dict(zip(names, probabilities.tolist(), strict=True))


def test_temperature_lets_no_further_token_in() -> None:
    logits = random_logits(2, 300)
    cool, hot = (kept(logits, SamplingParameters(temperature=t)) for t in (0.1, 100.0))
    assert cool.keys() == hot.keys()
    assert max(cool.values()) > max(hot.values())


def test_top_p_sees_the_probabilities_that_top_k_left() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    assert kept(logits, replace(PLAIN, top_p=0.5)).keys() == {0, 1}
    assert kept(logits, replace(PLAIN, top_k=2, top_p=0.5)).keys() == {0}


def test_min_p_comes_after_typical_p_has_dropped_the_likeliest() -> None:
    logits = np.log(np.array([0.35] + [0.05] * 13, np.float32))
    assert 0 in kept(logits, replace(PLAIN, min_p=0.5))
    assert kept(logits, replace(PLAIN, typical_p=0.2, min_p=0.5)).keys() == {1, 2, 3, 4}


@every_variant
def test_a_vocabulary_of_one(parameters: SamplingParameters) -> None:
    sampler = Sampler(parameters, 1)
    assert [sampler.sample(np.array([-3.0], np.float32)).token for _ in range(3)] == [0, 0, 0]


@every_variant
@pytest.mark.parametrize("low", [-np.inf, -3.4e38])
@pytest.mark.parametrize("size", [5, 9000])
def test_all_but_one_impossible(parameters: SamplingParameters, low: float, size: int) -> None:
    logits = np.full(size, low, np.float32)
    logits[3] = -2
    parameters = replace(parameters, logit_bias={}) if low > -np.inf else parameters
    sampler = Sampler(parameters, size, [3, 3])
    assert [sampler.sample(logits).token for _ in range(5)] == [3] * 5


@every_variant
def test_equal_logits_give_any_token(parameters: SamplingParameters) -> None:
    logits = np.full(3000, 1.5, np.float32)
    sampler = Sampler(parameters, 3000)
    assert all(0 <= sampler.sample(logits).token < 3000 for _ in range(5))


@every_variant
def test_logits_are_not_changed(parameters: SamplingParameters) -> None:
    logits = random_logits(3, 2000)
    logits.flags.writeable = False
    before = logits.copy()
    sampler = Sampler(parameters, 2000, range(100))
    for _ in range(3):
        sampler.sample(logits)
    np.testing.assert_array_equal(logits, before)


# Seeds


@every_variant
def test_equal_seeds_draw_alike(parameters: SamplingParameters) -> None:
    logits = random_logits(4, 1000)
    first, second = (Sampler(parameters, 1000) for _ in range(2))
    # Interleaved: the samplers share no random numbers.
    pairs = [(first.sample(logits).token, second.sample(logits).token) for _ in range(30)]
    assert all(a == b for a, b in pairs)


def sequence(seed: int) -> list[int]:
    sampler = Sampler(replace(PLAIN, seed=seed), 1000)
    return [sampler.sample(random_logits(i, 1000)).token for i in range(30)]


def test_other_seeds_draw_otherwise() -> None:
    seeds = [0, 1, 5, -5, 2**63 - 1, -(2**63), 2**32, -2]
    assert len({tuple(sequence(seed)) for seed in seeds}) == len(seeds)


def test_a_random_seed_draws_differently_every_time() -> None:
    assert sequence(-1) != sequence(-1)


def test_the_numbers_of_a_seed_are_fixed_for_good() -> None:
    sampler = Sampler(replace(PLAIN, seed=42), 10)
    assert [sampler.sample(np.zeros(10, np.float32)).token for _ in range(8)] == [6, 0, 2, 2, 7, 6, 8, 0]


# History


@pytest.mark.parametrize(
    ("last", "expected"),
    [(0, 1), (1, 1), (2, 2), (4, 2), (-1, 2)],
)
def test_penalties_look_back_repeat_last_n_tokens(last: int, expected: int) -> None:
    logits = np.array([0, 2.0, 1.9, 0], np.float32)
    parameters = replace(GREEDY, repeat_penalty=2.0, repeat_last_n=last)
    assert Sampler(parameters, 4, [0, 0, 1, 0]).sample(logits).token == expected


def test_chosen_tokens_join_the_history() -> None:
    logits = np.array([3, 2.5, 2, 1.5], np.float32)
    sampler = Sampler(replace(GREEDY, presence_penalty=10, repeat_last_n=2), 4)
    assert [sampler.sample(logits).token for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_a_strong_frequency_penalty_uses_every_token_equally() -> None:
    sampler = Sampler(replace(PLAIN, frequency_penalty=100, repeat_last_n=-1), 10)
    logits = random_logits(5, 10)
    counts = Counter(sampler.sample(logits).token for _ in range(50))
    assert set(counts.values()) == {5} and len(counts) == 10


# Bias and mask


def test_bias_forces_and_bans() -> None:
    logits = random_logits(6, 100)
    best = int(logits.argmax())
    assert set(np.flatnonzero(frequencies(replace(PLAIN, logit_bias={17: 1000.0}), logits, 50))) == {17}
    assert frequencies(replace(PLAIN, logit_bias={best: -1000.0}), logits, 200)[best] == 0


@every_variant
def test_a_mask_allows_only_its_tokens(parameters: SamplingParameters) -> None:
    logits = random_logits(7, 3000)
    mask = np.zeros(3000, np.bool_)
    mask[[5, 2999]] = True
    sampler = Sampler(parameters, 3000, [5, 5, 0])
    assert {sampler.sample(logits, mask).token for _ in range(40)} <= {5, 2999}


def test_a_mask_changes_no_odds_among_what_it_allows() -> None:
    logits = random_logits(8, 20)
    mask = np.arange(20) < 6
    sampler = Sampler(PLAIN, 20)
    found = np.bincount([sampler.sample(logits, mask).token for _ in range(10_000)], minlength=20) / 10_000
    expected = np.where(mask, np.exp(logits.astype(np.float64)), 0)
    assert_close_to(found, expected / expected.sum(), 10_000)


def test_a_mask_that_allows_nothing_is_refused() -> None:
    with pytest.raises(InvalidOption, match="allows no token"):
        Sampler(PLAIN, 4).sample(np.zeros(4, np.float32), np.zeros(4, np.bool_))


def test_a_mask_that_allows_only_the_impossible_is_an_error() -> None:
    logits = np.array([1, -np.inf], np.float32)
    with pytest.raises(BackendError, match="every token that the constraint allows"):
        Sampler(PLAIN, 2).sample(logits, np.array([False, True]))


# Log-probabilities


@pytest.mark.parametrize("size", [1, 3, 50_000])
@pytest.mark.parametrize("spread", [0.1, 3.0, 100.0])
def test_logprobs_are_torchs_log_softmax_of_the_raw_logits(size: int, spread: float) -> None:
    logits = random_logits(9, size, spread)
    expected = torch.log_softmax(torch.tensor(logits, dtype=torch.float64), dim=0)
    top = torch.topk(expected, min(20, size))
    parameters = SamplingParameters(
        logprobs=True, top_logprobs=20, repeat_penalty=1.5, logit_bias={0: 5.0}, temperature=3, seed=1
    )
    choice = Sampler(parameters, size, [int(logits.argmax())]).sample(logits)
    assert choice.logprob == pytest.approx(expected[choice.token].item(), abs=1e-5)
    assert [token for token, _ in choice.top_logprobs] == top.indices.tolist()
    np.testing.assert_allclose([x for _, x in choice.top_logprobs], top.values, atol=1e-5)


@pytest.mark.parametrize("alternatives", [0, 1, 2])
def test_as_many_top_logprobs_as_asked_for(alternatives: int) -> None:
    parameters = replace(GREEDY, logprobs=True, top_logprobs=alternatives)
    choice = Sampler(parameters, 3).sample(np.array([0, 1, 1], np.float32))
    expected = pytest.approx(-math.log(2 + math.exp(-1)))
    assert choice.logprob == expected
    assert [token for token, _ in choice.top_logprobs] == [1, 2][:alternatives]
    assert all(logprob == expected for _, logprob in choice.top_logprobs)


def test_impossible_tokens_are_no_alternatives() -> None:
    parameters = replace(GREEDY, logprobs=True, top_logprobs=5)
    choice = Sampler(parameters, 3).sample(np.array([-np.inf, 1, -np.inf], np.float32))
    assert choice == Choice(1, 0.0, ((1, 0.0),))


def test_without_logprobs_none_are_computed() -> None:
    choice = Sampler(replace(GREEDY, top_logprobs=5), 3).sample(np.zeros(3, np.float32))
    assert choice == Choice(0, None, ())


# Errors


@every_variant
@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("size", [10, 5000])
def test_logits_that_are_no_numbers_are_an_error(
    parameters: SamplingParameters, bad: float, size: int
) -> None:
    logits = random_logits(10, size)
    logits[size - 2] = bad
    with pytest.raises(BackendError, match=f"logit of token {size - 2} is (nan|inf|3e\\+38)"):
        Sampler(parameters, size).sample(logits)


@every_variant
def test_logits_that_are_all_impossible_are_an_error(parameters: SamplingParameters) -> None:
    with pytest.raises(BackendError, match="all -inf"):
        Sampler(parameters, 10).sample(np.full(10, -np.inf, np.float32))


@pytest.mark.parametrize("shape", [(9,), (11,), (1, 10), ()])
def test_logits_of_another_shape_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(BackendError, match=r"expected logits of shape \(10,\), got"):
        Sampler(PLAIN, 10).sample(np.zeros(shape, np.float32))


@pytest.mark.parametrize("token", [-1, 10, 2**40])
def test_history_outside_the_vocabulary_is_refused(token: int) -> None:
    with pytest.raises(InvalidOption, match=f"the history names token {token}, .* are 0 to 9"):
        Sampler(replace(PLAIN, repeat_penalty=1.1), 10, [3, token])


def test_bias_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(InvalidOption, match="logit_bias names token 10"):
        Sampler(replace(PLAIN, logit_bias={3: 1, 10: 1}), 10)
