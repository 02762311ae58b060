"""Logits of token sequences from a model file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from puna.engine.evaluator import Batch, Evaluator
from puna.ml import BackendParams, DType, new_backend
from puna.models import build_model

Logits = NDArray[np.float32]

WAYS = [
    BackendParams(num_threads=1, fuse=False),
    BackendParams(num_threads=1, flash_attention=False),
    BackendParams(num_threads=1, repack=False),
]
"""What may be chosen without a change to the result."""


@contextmanager
def opened(
    path: Path,
    backend: str,
    *,
    dtype: DType = DType.F32,
    params: BackendParams | None = None,
    sequences: int = 1,
    capacity: int = 128,
    max_batch: int = 64,
) -> Iterator[Evaluator]:
    """A model ready to evaluate, closed afterwards."""
    with new_backend(
        path, params or BackendParams(num_threads=1, transcode=False), name=backend
    ) as opened_backend:
        model = build_model(opened_backend)
        opened_backend.load()
        model.context = capacity
        cache = model.cache()
        cache.init(opened_backend, dtype, sequences, capacity, max_batch)
        evaluator = Evaluator(opened_backend, model, cache)
        try:
            evaluator.reserve(max_batch)
            yield evaluator
        finally:
            evaluator.close()


def evaluate(
    evaluator: Evaluator, tokens: Sequence[int], *, chunk: int, start: int = 0, sequence: int = 0
) -> Logits:
    """Logits (tokens, vocabulary) of every position, the tokens going in `chunk` at a time."""
    parts = []
    for begin in range(0, len(tokens), chunk):
        piece = tokens[begin : begin + chunk]
        batch = Batch.of(piece, start + begin, sequence, all_outputs=True)
        parts.append(evaluator.evaluate(batch).copy())
    return np.concatenate(parts)
