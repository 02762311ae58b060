"""Which models are copied into memory of their own, and which stay mapped files."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.tiny_llama import write_tiny_llama

from puna.engine.evaluator import Batch
from puna.engine.load import load_model
from puna.engine.options import LoadOptions
from puna.linux import own_memory_limit
from puna.ml.array import Floats
from puna.ml.backends.ggml import weights
from puna.ml.backends.ggml.backend import GGMLBackend
from puna.ml.backends.ggml.weights import Storage


def loaded(path: Path) -> tuple[set[Storage], Floats]:
    """How the weights are kept, and what comes of some tokens."""
    with load_model(path, LoadOptions(num_ctx=64, num_parallel=1, num_threads=1)) as model:
        backend = model.evaluator.backend
        assert isinstance(backend, GGMLBackend)
        kept = {weight.storage for weight in backend._weights.asked}
        return kept, model.evaluator.evaluate(Batch.of([3, 4, 5], 0)).copy()


def test_a_model_is_copied_where_memory_is_plenty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_llama(path)
    size = path.stat().st_size
    monkeypatch.setattr(weights, "own_memory_limit", lambda: 4 * size)
    copied, expected = loaded(path)
    assert Storage.MAPPED not in copied
    monkeypatch.setattr(weights, "own_memory_limit", lambda: 4 * size - 1)
    mapped, found = loaded(path)
    assert mapped == {Storage.MAPPED}
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")
def test_a_ceiling_counts_as_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: {resource.RLIMIT_DATA: (5000, 6000)}[which])
    assert own_memory_limit() == 5000
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, -1))
    assert own_memory_limit() == math.inf
