"""Selections: from the logits of some tokens to the positions of those that stay in the draw.

Every selection is a pure function. `logits` is a vector of any float type, shape (n,), free of NaN and +inf;
-inf marks a token that is out already and is never selected, and at least one entry must be finite. The
result is a vector of positions into it, never empty.
"""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Positions = NDArray[np.intp]

BLOCK = 64
"""How many elements a large vector is folded into one by, in `top_k` and `draw`."""

BLOCKS_PER_K = 16
"""`top_k` makes at least this many blocks per wanted element, so that few blocks hold one."""

FIRST_GUESS = 256
"""How many tokens `nucleus` sorts before it looks whether they suffice; a trained model rarely needs more."""


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """exp(logits / temperature), normalised; in the logits' own type."""
    weights: Floats = logits - logits.max()
    weights /= temperature
    np.exp(weights, out=weights)
    weights /= weights.sum()
    return weights


def top_k(logits: Floats, k: int) -> Positions:
    """Positions of the k largest logits, largest first; of equal ones the lowest position first.

    Fewer than k when fewer are above -inf.
    """
    contenders = _contenders(logits, k)
    order = np.argsort(-logits[contenders], kind="stable")
    return contenders[order[:k]]


def _contenders(logits: Floats, k: int) -> Positions:
    """Ascending positions, the k largest among them, usually few more.

    Folding the vector into blocks and taking the k-th largest of the blocks' maxima gives a lower bound of
    the k-th largest logit, as k different elements reach it. Blocks are strided (the columns of a matrix),
    since NumPy reduces those many times as fast as contiguous ones of that length.
    """
    rows = min(BLOCK, logits.size // (BLOCKS_PER_K * k))
    if rows < 2:
        return np.flatnonzero(logits > -np.inf)
    columns = logits.size // rows
    blocks = logits[: rows * columns].reshape(rows, columns)
    maxima = blocks.max(axis=0)
    bound = np.partition(maxima, columns - k)[columns - k]
    if bound == -np.inf:
        return np.flatnonzero(logits > -np.inf)
    chosen = np.flatnonzero(maxima >= bound)
    row, column = np.nonzero(blocks[:, chosen] >= bound)
    rest = np.flatnonzero(logits[rows * columns :] >= bound)
    return np.concatenate((row * columns + chosen[column], rest + rows * columns))


def nucleus(keys: Floats, probabilities: Floats, mass: float) -> Positions:
    """The fewest positions, taken by descending key, whose probabilities sum to at least `mass`."""
    k = FIRST_GUESS
    while True:
        order = top_k(keys, k)
        count = int(np.searchsorted(probabilities[order].cumsum(dtype=np.float64), mass)) + 1
        if count <= order.size or k >= keys.size:
            return order[:count]
        k *= 16


def top_p(logits: Floats, p: float) -> Positions:
    """Nucleus sampling: tokens from the most likely on, up to and with the one that reaches mass p.

    Holtzman et al., "The Curious Case of Neural Text Degeneration", arXiv:1904.09751.
    """
    return nucleus(logits, softmax(logits), p)


def typical(logits: Floats, p: float) -> Positions:
    """Locally typical sampling: tokens whose surprise is nearest to the entropy, until their mass reaches p.

    Ascending positions, so what was sorted stays so. Meister et al., "Locally Typical Sampling",
    arXiv:2202.00666.
    """
    probabilities = softmax(logits)
    with np.errstate(divide="ignore"):
        surprise = -np.log(probabilities)
    possible = probabilities > 0
    entropy = np.dot(probabilities[possible], surprise[possible])
    return np.sort(nucleus(-np.abs(surprise - entropy), probabilities, p))


def min_p(logits: Floats, p: float) -> Positions:
    """Tokens at least p times as likely as the most likely one, ascending positions; p in (0, 1].

    Nguyen et al., "Turning Up the Heat: Min-p Sampling", arXiv:2407.01082.
    """
    return np.flatnonzero(logits >= logits.max() + math.log(p))


def draw(probabilities: Floats, uniform: float) -> int:
    """A position, drawn with its probability by `uniform`, a number from 0 to 1 of equal density.

    Large vectors are drawn from in two steps, first a block, then an element of it: a third of the time of
    one long cumulative sum.
    """
    columns = probabilities.size // BLOCK
    if columns < BLOCK:
        return _invert(probabilities, uniform)[0]
    blocks = probabilities[: BLOCK * columns].reshape(BLOCK, columns)
    rest = probabilities[BLOCK * columns :]
    column, uniform = _invert(np.append(blocks.sum(axis=0), rest.sum()), uniform)
    if column == columns:
        return BLOCK * columns + _invert(rest, uniform)[0]
    return column + columns * _invert(blocks[:, column], uniform)[0]


def _invert(weights: Floats, uniform: float) -> tuple[int, float]:
    """The position at which the cumulative weight first exceeds `uniform` of the total, and how far into that
    position's own weight, again a number from 0 to 1.
    """
    cumulative = weights.cumsum(dtype=np.float64)
    total = cumulative[-1]
    # Nothing exceeds the total, and what is left of `uniform` within a block may round up to 1.
    target = min(uniform * total, np.nextafter(total, 0))
    position = int(cumulative.searchsorted(target, side="right"))
    before = cumulative[position - 1] if position else 0.0
    return position, float((target - before) / (cumulative[position] - before))
