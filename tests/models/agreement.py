"""What a decoder must have in common with transformers, whatever its architecture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tests.models import hf_models
from tests.models.driver import Logits, evaluate, opened

from puna.engine.evaluator import Batch, Evaluator

Write = Callable[[Path, Any], None]


def agrees(found: Logits, expected: Logits) -> None:
    """No logit differs by more than 1e-3, and the largest is the same."""
    assert np.abs(found - expected).max() < 1e-3
    assert (found.argmax(-1) == expected.argmax(-1)).all()


def check(path: Path, model: Any, write: Write, backend: str, seed: int) -> None:
    """All at once, in chunks, one by one, and two sequences in one batch."""
    write(path, model)
    tokens = hf_models.random_tokens(seed, 45)
    expected = hf_models.logits(model, tokens)
    with opened(path, backend, sequences=2) as evaluator:
        for chunk in (45, 7):
            agrees(evaluate(evaluator, tokens, chunk=chunk), expected)
            evaluator.cache.remove(0, 0)
        _two_at_once(evaluator, model, tokens[:20], tokens[25:])


def _two_at_once(evaluator: Evaluator, model: Any, one: list[int], two: list[int]) -> None:
    evaluate(evaluator, one[:10], chunk=10)
    evaluate(evaluator, two[:8], chunk=3, sequence=1)
    both = Batch(
        np.array(one[10:15] + two[8:12], np.int32),
        np.array([*range(10, 15), *range(8, 12)], np.int32),
        np.array([0] * 5 + [1] * 4, np.int32),
        np.arange(9, dtype=np.int32),
    )
    mixed = evaluator.evaluate(both).copy()
    agrees(mixed[:5], hf_models.logits(model, one)[10:15])
    agrees(mixed[5:], hf_models.logits(model, two)[8:12])
    agrees(evaluate(evaluator, one[15:], chunk=1, start=15), hf_models.logits(model, one)[15:])


def check_removal(path: Path, model: Any, write: Write, backend: str) -> None:
    """In a model of one layer keys depend on nothing but their token and position: the rest fits exactly."""
    write(path, model)
    tokens = hf_models.random_tokens(9, 40)
    with opened(path, backend, max_batch=8) as evaluator:
        evaluate(evaluator, tokens[:30], chunk=8)
        evaluator.cache.remove(0, 4, 11)
        found = evaluate(evaluator, tokens[30:], chunk=5, start=23)
    agrees(found, hf_models.logits(model, tokens[:4] + tokens[11:])[23:])
