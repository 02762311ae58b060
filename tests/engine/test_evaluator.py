"""A graph that is run again gives what a graph built anew gives, bit for bit."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from puna.engine.evaluator import Batch, Evaluator
from puna.engine.load import LoadedModel, load_model
from puna.engine.options import LoadOptions
from puna.errors import BackendError
from puna.kvcache import CacheFull
from puna.ml import DType, Tensor
from puna.ml.array import Floats
from puna.models.base import Step

STEPS = 600


def _run(evaluator: Evaluator, steps: int, before: Callable[[], None] = lambda: None) -> list[Floats]:
    """Two sequences decode in turn, each after a prompt of its own."""
    random = np.random.default_rng(7)
    length = [0, 0]
    logits = []
    for sequence, prompt in enumerate((random.integers(2, 258, 40), random.integers(2, 258, 23))):
        before()
        logits.append(evaluator.evaluate(Batch.of(list(prompt), 0, sequence)).copy())
        length[sequence] = len(prompt)
    for step in range(steps):
        sequence = step % 2 if step % 7 else 0
        before()
        token = int(random.integers(2, 258))
        logits.append(evaluator.evaluate(Batch.of([token], length[sequence], sequence)).copy())
        length[sequence] += 1
    return logits


def test_replayed_steps_equal_rebuilt_ones(tiny_path: Path) -> None:
    options = LoadOptions(num_threads=1, num_parallel=2)
    results = []
    for replay in (True, False):
        with load_model(tiny_path, options) as model:
            evaluator = model.evaluator
            results.append(
                _run(evaluator, STEPS) if replay else _run(evaluator, STEPS, evaluator.forget_graphs)
            )
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


def test_poisoned_compute_buffer_changes_nothing(tiny: LoadedModel) -> None:
    clean = _run(tiny.evaluator, 40)
    tiny.evaluator.cache.remove(0, 0)
    tiny.evaluator.cache.remove(1, 0)

    def poison() -> None:
        for traced in tiny.evaluator._traced.values():
            _fill_with_nan(traced.result)

    poisoned = _run(tiny.evaluator, 40, poison)
    assert all(np.array_equal(a, b) for a, b in zip(clean, poisoned, strict=True))


def _fill_with_nan(tensor: object) -> None:
    """Overwrites the whole buffer in which the tensor lies."""
    from puna.ggml import access
    from puna.ml.backends.ggml.tensor import GGMLTensor

    assert isinstance(tensor, GGMLTensor)
    library = tensor.library
    buffer = access.buffer(tensor.handle)
    base = library.ggml_backend_buffer_get_base(buffer)
    ctypes.memset(base, 0xFF, library.ggml_backend_buffer_get_size(buffer))


def test_a_graph_outlives_a_move_of_the_compute_buffer(tiny_path: Path) -> None:
    with load_model(tiny_path, LoadOptions(num_threads=1, num_batch=8)) as model:
        evaluator = model.evaluator
        first = evaluator.evaluate(Batch.of([5], 0)).copy()
        evaluator.cache.remove(0, 0)
        # Logits of all 300 tokens need more room than was reserved for batches of 8.
        context = model.backend.new_context()
        big = context.input().empty(DType.F32, 512, 4096)
        context.forward(doubled := big + big).compute(doubled)
        context.close()
        assert np.array_equal(evaluator.evaluate(Batch.of([5], 0)), first)


def test_a_full_cache_is_refused_and_nothing_changes(tiny_path: Path) -> None:
    with load_model(tiny_path, LoadOptions(num_threads=1, num_ctx=256)) as model:
        evaluator = model.evaluator
        evaluator.evaluate(Batch.of(list(range(2, 252)), 0))
        with pytest.raises(CacheFull):
            evaluator.evaluate(Batch.of(list(range(2, 12)), 250))
        assert evaluator.evaluate(Batch.of([9], 250)).shape == (1, 258)


@pytest.mark.parametrize("error", [BackendError("out of order"), KeyboardInterrupt()])
def test_a_computation_that_fails_leaves_nothing_behind(
    tiny: LoadedModel, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(step: Step) -> Tensor:
        raise error

    evaluator = tiny.evaluator
    evaluator.evaluate(Batch.of(list(range(2, 30)), 0, 0))
    positions, sequences = np.array([28, 0, 29, 1], np.int32), np.array([0, 1, 0, 1], np.int32)
    batch = Batch(positions + 2, positions, sequences, np.array([2, 3], np.int32))
    expected = evaluator.evaluate(batch).copy()
    for sequence, length in ((0, 28), (1, 0)):
        evaluator.cache.remove(sequence, length)
    evaluator.forget_graphs()
    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "compute", failing)
        with pytest.raises(type(error)):
            evaluator.evaluate(batch)
    assert evaluator.cache.taken == 28
    assert np.array_equal(evaluator.evaluate(batch), expected)


def test_all_outputs_equal_one_output_at_a_time(tiny: LoadedModel) -> None:
    prompt = list(range(30, 60))
    every = tiny.evaluator.evaluate(Batch.of(prompt, 0, all_outputs=True)).copy()
    tiny.evaluator.cache.remove(0, 0)
    single = [tiny.evaluator.evaluate(Batch.of([token], i)).copy()[0] for i, token in enumerate(prompt)]
    np.testing.assert_allclose(every, single, atol=2e-3)
