"""Loading and resizing: what a plan says is what loading takes, and a cache can be made anew."""

from itertools import count
from pathlib import Path

import numpy as np
import pytest
from tests.engine.driving import alone, loaded, request, run
from tests.tiny_llama import BLOCKS, BOS, HIDDEN, write_tiny_llama

from puna.engine import load
from puna.engine.events import Done, Event, TextChunk
from puna.engine.load import LoadedModel, load_model, plan_model
from puna.engine.options import LoadOptions
from puna.errors import BackendError, InternalError, InvalidOption
from puna.kvcache import History
from puna.ml import AllocationStatus, InsufficientMemory
from puna.sampling.parameters import SamplingParameters

GREEDY = SamplingParameters(temperature=0.0)
SHAPES = [
    LoadOptions(num_threads=1),
    LoadOptions(num_threads=1, num_ctx=300, num_parallel=3, kv_cache_type="f32", num_batch=100),
    LoadOptions(num_threads=1, num_ctx=128, num_parallel=24, num_batch=16),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.mark.parametrize("backend", ["reference", "ggml"])
@pytest.mark.parametrize("options", SHAPES)
def test_a_plan_says_what_loading_takes(path: Path, options: LoadOptions, backend: str) -> None:
    planned, num_ctx, layers = plan_model(path, options, backend=backend)
    assert (num_ctx, layers) == (options.num_ctx or 4096, BLOCKS)
    with load_model(path, options, backend=backend) as model:
        took = model.memory
        # Answers of all at once need no more than was reserved.
        run(model.engine, *[request([BOS, 70 + i], 3) for i in range(options.num_parallel or 1)])
        assert model.backend.backend_memory() == took
    assert planned.cpu.weights[0].status is AllocationStatus.UNALLOCATED
    assert [entry.size for entry in planned.cpu.weights] == [entry.size for entry in took.cpu.weights]
    assert [entry.size for entry in planned.cpu.cache] == [entry.size for entry in took.cpu.cache]
    assert planned.input_weights.size == took.input_weights.size
    assert planned.cpu.graph.size >= took.cpu.graph.size > 0


def test_a_resized_model_is_as_one_loaded_that_way(path: Path) -> None:
    with loaded(path, num_ctx=64) as model:
        run(model.engine, request([BOS, 70], 5))
        for options in SHAPES:
            model.resize(options)
            assert (model.num_ctx, model.options) == (options.num_ctx or 4096, options)
            assert len(model.engine.prefixes) == 0
            with load_model(path, options) as fresh:
                caches = [[entry.size for entry in one.memory.cpu.cache] for one in (model, fresh)]
                assert caches[0] == caches[1]
            wanted = [request([BOS, *range(40, 41 + i)], 6) for i in range(options.num_parallel or 1)]
            answers = run(model.engine, *wanted)
            model.engine.check()
            model.engine.forget()
            expected = alone(model, wanted[0])
            assert answers[0].text == expected.text


def test_a_model_that_answers_is_not_resized(path: Path) -> None:
    with loaded(path, num_ctx=64) as model:
        model.engine.submit(0, request([BOS, 70], 5))
        with pytest.raises(InvalidOption, match="under way"):
            model.resize(LoadOptions(num_ctx=128))
        while not model.engine.idle:
            model.engine.step()
        model.resize(LoadOptions(num_ctx=128))


def test_what_is_too_large_leaves_the_model_as_it_was(path: Path) -> None:
    huge = HIDDEN * 10**9
    with loaded(path, num_ctx=64) as model:
        expected = alone(model, request([BOS, 70], 5)).text
        before = model.memory
        original = model.metadata.uint

        def boundless(key: str, *default: int) -> int:
            return huge if key == "context_length" else original(key, *default)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(model.metadata), "uint", lambda self, key, *default: boundless(key, *default))
            with pytest.raises(InsufficientMemory):
                model.resize(LoadOptions(num_threads=1, num_ctx=10**9, kv_cache_type="f32"))
        assert (model.num_ctx, model.memory) == (64, before)
        assert run(model.engine, request([BOS, 70], 5))[0].text == expected


def test_a_model_that_has_lost_its_cache_is_of_no_use(path: Path) -> None:
    def no_room(*arguments: object) -> None:
        raise BackendError("no room")

    with loaded(path, num_ctx=64) as model, pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "new_evaluator", no_room)
        with pytest.raises(InternalError, match="lost its cache: no room"):
            model.resize(LoadOptions(num_threads=1, num_ctx=128))


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextChunk))


@pytest.mark.parametrize("parallel", [1, 2])
def test_answers_can_be_read_by_turns(path: Path, parallel: int) -> None:
    with loaded(path, num_ctx=128, num_parallel=parallel) as model:
        single = [list(model.generate([BOS, 70 + i], GREEDY, num_predict=12)) for i in range(2)]
        one, two = (model.generate([BOS, 70 + i], GREEDY, num_predict=12) for i in range(2))
        first: list[Event] = []
        second: list[Event] = []
        while len(second) < len(single[1]) or len(first) < len(single[0]):
            first += [event for event in (next(one, None),) if event]
            second += [event for event in (next(two, None),) if event]
        assert (text(first), text(second)) == (text(single[0]), text(single[1]))
        assert model.engine.idle


def test_an_answer_that_is_dropped_makes_room_for_others(path: Path) -> None:
    with loaded(path, num_ctx=128) as model:
        dropped = model.generate([BOS, 70], GREEDY)
        next(dropped)
        dropped.close()
        assert isinstance(list(model.generate([BOS, 71], GREEDY, num_predict=3))[-1], Done)
        assert model.engine.idle
        model.engine.check()


def test_vectors_disturb_no_request(path: Path) -> None:
    texts = [[BOS, 70, 71], [BOS, *range(80, 200)], [BOS]]
    with loaded(path) as model:
        expected = list(model.generate([BOS, 71], GREEDY, num_predict=8))
        vectors = model.embed(texts)
        assert [vector.shape for vector in vectors] == [(HIDDEN,)] * 3
        answer = model.generate([BOS, 71], GREEDY, num_predict=8)
        events = [next(answer)]
        assert all(map(np.array_equal, model.embed(texts), vectors))
        assert _texts([*events, *answer]) == _texts(expected)
        model.resize(LoadOptions(num_threads=1, num_ctx=256, num_batch=32))
        for vector, before in zip(model.embed(texts), vectors, strict=True):
            np.testing.assert_allclose(vector, before, atol=2e-2)
        model.engine.check()


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_vectors_after_a_computation_that_failed(
    path: Path, fails: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [[BOS, 70, 71], [BOS, *range(80, 150)], [BOS]]
    with loaded(path, num_batch=32) as model:
        vectors = model.embed(texts)
        evaluator, calls = model.embedder.evaluator, count(1)
        original = evaluator.cache.fill

        def failing(history: History) -> None:
            original(history)
            if next(calls) == fails:
                raise BackendError("out of order")

        with monkeypatch.context() as patch:
            patch.setattr(evaluator.cache, "fill", failing)
            with pytest.raises(BackendError):
                model.embed(texts)
        assert evaluator.cache.taken == 0
        assert all(map(np.array_equal, model.embed(texts), vectors))


def _texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, TextChunk)]


def test_halting_counts_what_was_generated(path: Path) -> None:
    def answer(model: LoadedModel, most: int) -> list[Event]:
        seen: list[Event] = []
        for event in model.generate([BOS, 70], GREEDY, num_predict=50, halted=lambda: len(seen) >= most):
            seen.append(event)
        return seen

    with loaded(path, num_ctx=128) as model:
        *pieces, done = answer(model, 4)
        assert len(pieces) == 4
        assert isinstance(done, Done)
        assert done.reason == "stop"
        assert 4 <= done.generated_tokens < 50
