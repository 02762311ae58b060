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


def check_company(path: Path, model: Any, write: Write, backend: str) -> None:
    """Three sequences of different lengths in the same batches, in pieces, and with their tokens mixed."""
    write(path, model)
    texts = [hf_models.random_tokens(seed, length) for seed, length in ((1, 40), (2, 23), (3, 31))]
    expected = [hf_models.logits(model, text) for text in texts]
    for shares in ([[40], [23], [31]], [[13, 1, 26], [13, 1, 9], [1, 7, 23]], [[20, 20], [0, 23], [20, 11]]):
        with opened(path, backend, sequences=3, max_batch=100) as evaluator:
            done = [0, 0, 0]
            for counts in zip(*[[*share, *[0] * (3 - len(share))] for share in shares], strict=True):
                if not any(counts):
                    continue
                rows = [(whose, done[whose] + n) for whose in range(3) for n in range(counts[whose])]
                _agree(evaluator, texts, expected, rows)
                done = [before + count for before, count in zip(done, counts, strict=True)]
    with opened(path, backend, sequences=3, max_batch=100) as evaluator:
        by_turns = sorted(
            ((whose, at) for whose in range(3) for at in range(len(texts[whose]))), key=lambda row: row[1]
        )
        for begin in range(0, len(by_turns), 17):
            _agree(evaluator, texts, expected, by_turns[begin : begin + 17])


def _agree(
    evaluator: Evaluator, texts: list[list[int]], expected: list[Logits], rows: list[tuple[int, int]]
) -> None:
    """A batch of tokens, each given by its sequence and position."""
    batch = Batch(
        np.array([texts[whose][at] for whose, at in rows], np.int32),
        np.array([at for _, at in rows], np.int32),
        np.array([whose for whose, _ in rows], np.int32),
        np.arange(len(rows), dtype=np.int32),
    )
    agrees(evaluator.evaluate(batch), np.array([expected[whose][at] for whose, at in rows]))


def check_resumed(path: Path, model: Any, write: Write, backend: str) -> None:
    """After a prompt and an answer, from the states that are kept: back to one, and others from the same."""
    write(path, model)
    tokens, other = hf_models.random_tokens(4, 50), hf_models.random_tokens(5, 20)
    expected = hf_models.logits(model, tokens)
    with opened(path, backend, sequences=3) as evaluator:
        cache = evaluator.cache
        evaluate(evaluator, tokens[:30], chunk=30)
        agrees(evaluate(evaluator, tokens[30:], chunk=1, start=30), expected[30:])
        assert cache.resumable(0, 50) == 50 and cache.resumable(0, 47) == 26 and cache.resumable(0, 25) == 0
        cache.copy_prefix(0, 1, 26)
        cache.copy_prefix(0, 2, 50)
        joined = hf_models.logits(model, tokens[:26] + other)
        agrees(evaluate(evaluator, other, chunk=3, start=26, sequence=1), joined[26:])
        longer = hf_models.logits(model, tokens + other)
        agrees(evaluate(evaluator, other, chunk=20, start=50, sequence=2), longer[50:])
        cache.remove(0, 26)
        assert cache.is_whole(0, 26) and not cache.can_resume(0, 27)
        agrees(evaluate(evaluator, tokens[26:], chunk=7, start=26), expected[26:])
        for sequence in range(3):
            cache.remove(sequence, 0)
        assert not cache.owners() and not cache.taken
