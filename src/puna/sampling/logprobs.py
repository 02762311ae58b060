"""Log-probabilities as Ollama and OpenAI report them: of the raw logits, before any option changes them."""

import numpy as np

from puna.sampling.transforms import Floats, top_k

TokenLogprob = tuple[int, float]


def report(logits: Floats, token: int, top: int) -> tuple[float, tuple[TokenLogprob, ...]]:
    """The natural logarithm of the token's probability, and the `top` most likely tokens with theirs.

    Args:
        logits: the raw logits, shape (vocabulary,), free of NaN.
        token: the chosen token.
        top: how many alternatives to list, most likely first, equal ones by id; impossible tokens (-inf) are
            left out.
    """
    normaliser = log_sum_exp(logits)
    leaders = top_k(logits, top).tolist() if top else []
    return float(logits[token]) - normaliser, tuple((i, float(logits[i]) - normaliser) for i in leaders)


def log_sum_exp(logits: Floats) -> float:
    """log(sum(exp(logits))), without overflow."""
    peak = logits.max()
    return float(peak) + float(np.log(np.exp(logits - peak).sum(dtype=np.float64)))
