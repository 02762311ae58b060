"""Mirostat: truncation steered so that the surprise of the text stays near a target.

Basu et al., "Mirostat: A Neural Text Decoding Algorithm that Directly Controls Perplexity", arXiv:2007.14966.
Version 1 is the paper's Algorithm 1, which estimates the exponent of Zipf's law; version 2 cuts at the
surprise itself. The state is one number, mu, in bits, that starts at twice the target tau.

Logits follow the rules of `puna.sampling.transforms`.
"""

import math

import numpy as np

from puna.sampling.transforms import Floats, Positions, top_k

ESTIMATED_TOKENS = 100
"""How many of the most likely tokens version 1 fits Zipf's law to (m in the paper)."""


def zipf_exponent(logits: Floats) -> float:
    """The paper's estimate s of Zipf's exponent, from logits in descending order: sum(t b) / sum(t²) with
    t_i = log((i + 1) / i) and b_i = log(p_i / p_(i+1)). NaN for a single logit.
    """
    if logits.size < 2:
        return math.nan
    ranks = np.arange(1, logits.size)
    t = np.log((ranks + 1) / ranks)
    b = -np.diff(logits.astype(np.float64))
    return float(np.dot(t, b) / np.dot(t, t))


def kept_by_zipf(exponent: float, mu: float, vocab_size: int) -> int:
    """How many tokens version 1 keeps: k = (e 2^mu / (1 - N^-e))^(1/s) with e = s - 1, from 1 to N.

    Computed through logarithms, as 2^mu overflows for a large target; s = 1 and s = 0 take their limits.
    """
    if math.isnan(exponent):
        return 1
    e = exponent - 1
    log_n = math.log(vocab_size)
    log_ratio = math.log(-e / math.expm1(-e * log_n)) if e != 0 else -math.log(log_n)
    log_power = log_ratio + mu * math.log(2)
    if log_power >= exponent * log_n:
        return vocab_size
    return max(int(math.exp(log_power / exponent)), 1) if exponent > 0 else 1


def select_v1(logits: Floats, mu: float) -> Positions:
    """Version 1: the k most likely tokens, in no order, with k from the estimated Zipf exponent."""
    leaders = top_k(logits, ESTIMATED_TOKENS)
    k = kept_by_zipf(zipf_exponent(logits[leaders]), mu, logits.size)
    if k >= logits.size:  # the usual end where the text surprises less than the target: spare the sort
        return np.flatnonzero(logits > -np.inf)
    return leaders[:k] if k <= leaders.size else top_k(logits, k)


def select_v2(logits: Floats, mu: float) -> Positions:
    """Version 2: the tokens whose surprise is at most mu bits, ascending; if there is none, the likeliest."""
    peak = logits.max()
    least_surprise = math.log2(np.exp(logits - peak).sum(dtype=np.float64))
    if mu <= least_surprise:
        return np.array([logits.argmax()])
    return np.flatnonzero(logits >= peak - (mu - least_surprise) * math.log(2))


def updated(mu: float, probability: float, tau: float, eta: float) -> float:
    """mu after a token of this probability, among those kept, was drawn."""
    return mu - eta * (-math.log2(probability) - tau)
