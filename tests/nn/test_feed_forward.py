"""Mixtures of experts against their formulas in NumPy, token by token and in float64."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.nn.files import Floats, bound, compute, random, write

from puna.ml.nn import MixtureOfExperts, Routing, Scores

X = random(5, 64, seed=1)
EIGHTH = np.float32(1 / 8)
EXPERTS, HIDDEN, WIDTH = 6, 64, 48
Vector = NDArray[np.float64]


def _tensors(*, corrected: bool) -> dict[str, Floats]:
    tensors: dict[str, Floats] = {
        "ffn_gate_inp.weight": random(EXPERTS, HIDDEN) * EIGHTH,
        "ffn_gate_exps.weight": random(EXPERTS, WIDTH, HIDDEN, seed=2) * EIGHTH,
        "ffn_up_exps.weight": random(EXPERTS, WIDTH, HIDDEN, seed=3) * EIGHTH,
        "ffn_down_exps.weight": random(EXPERTS, HIDDEN, WIDTH) * EIGHTH,
    }
    if corrected:
        tensors["exp_probs_b.bias"] = random(EXPERTS)
    return tensors


def _softmax(x: Vector) -> Vector:
    powers: Vector = np.exp(x - x.max())
    shares: Vector = powers / powers.sum()
    return shares


def _expected(x: Vector, tensors: dict[str, Floats], routing: Routing) -> Vector:
    logits = tensors["ffn_gate_inp.weight"].astype(float) @ x
    kinds = {Scores.SOFTMAX: _softmax(logits), Scores.SIGMOID: 1 / (1 + np.exp(-logits))}
    scores = kinds.get(routing.scores, logits)
    chosen = np.argsort(-(scores + tensors.get("exp_probs_b.bias", 0)))[: routing.used]
    weights = scores[chosen]
    if routing.scores is Scores.SOFTMAX_OF_CHOSEN:
        weights = _softmax(weights)
    if routing.normalise:
        weights = weights / weights.sum()
    total = np.zeros(HIDDEN)
    for expert, weight in zip(chosen, weights * routing.scale, strict=True):
        gate = tensors["ffn_gate_exps.weight"][expert].astype(float) @ x
        up = tensors["ffn_up_exps.weight"][expert].astype(float) @ x
        total += weight * (tensors["ffn_down_exps.weight"][expert] @ (gate / (1 + np.exp(-gate)) * up))
    return total


@pytest.mark.parametrize("scores", list(Scores))
@pytest.mark.parametrize(
    ("used", "normalise", "scale", "corrected"),
    [(2, False, 1.0, False), (3, True, 2.5, True), (1, False, 0.5, True), (6, True, 1.0, False)],
)
def test_mixture(
    tmp_path: Path,
    backend_name: str,
    scores: Scores,
    used: int,
    normalise: bool,
    scale: float,
    corrected: bool,
) -> None:
    routing = Routing(EXPERTS, used, scores, normalise, scale)
    tensors, mixture = _tensors(corrected=corrected), MixtureOfExperts(routing, HIDDEN, WIDTH)
    with bound(mixture, write(tmp_path / "e.gguf", tensors), backend_name) as backend:
        found = compute(backend, lambda context: mixture(context.input().from_floats(X, *X.shape)))
    expected = np.stack([_expected(x.astype(float), tensors, routing) for x in X])
    np.testing.assert_allclose(found, expected, atol=1e-4)
