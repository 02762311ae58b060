"""A model that carries states: what of a text is evaluated again, and that it shows in no answer."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.engine import test_memory_plan
from tests.engine.driving import (
    MARGINS,
    VARIED,
    Answer,
    alone,
    crowded,
    finish,
    loaded,
    request,
    run,
    step,
)
from tests.engine.test_engine_company import keep_company
from tests.engine.test_speculation import Prophet
from tests.tiny_lfm2 import write_tiny_lfm2
from tests.tiny_llama import BOS

from puna.engine import loop
from puna.engine.load import LoadedModel
from puna.engine.options import LoadOptions
from puna.engine.request import GenerateRequest
from puna.errors import Interrupted
from puna.kvcache import recurrent
from puna.sampling.parameters import SamplingParameters

# As many tokens before the end of a prompt a state is kept.
BEFORE_END = 4


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_lfm2(tmp_path_factory.mktemp("models") / "lfm2.gguf")


@pytest.fixture
def model(path: Path) -> Iterator[LoadedModel]:
    with loaded(path, num_ctx=256, num_parallel=8, num_batch=64) as model:
        yield model


def few_states(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Beside those of sequences that run."""
    monkeypatch.setattr(recurrent, "_KEPT_LEAST", count)
    monkeypatch.setattr(recurrent, "_KEPT_MOST", count)


def text(model: LoadedModel, wanted: GenerateRequest) -> str:
    """The answer where nothing is kept."""
    model.engine.forget()
    return alone(model, wanted).text


@pytest.mark.parametrize("backend", ["reference", "ggml"])
def test_eight_at_once_answer_as_each_alone(path: Path, backend: str) -> None:
    random = np.random.default_rng(2)
    sampling = SamplingParameters(**VARIED, logprobs=True)
    prompts = [[BOS, *random.integers(2, 258, size).tolist()] for size in random.integers(1, 90, 16)]
    wanted = [request(prompt, 4 + 5 * i % 25, sampling=sampling) for i, prompt in enumerate(prompts)]
    with loaded(path, backend, num_ctx=160, num_parallel=8, num_batch=64) as model:
        answers = run(model.engine, *wanted)
        model.engine.forget()
        for given, found in zip(wanted, answers, strict=True):
            tokens = [token.id for token in found.logprobs]
            assert alone(model, given).agrees(tokens, MARGINS["lfm2"] if backend == "ggml" else 0.0)
        model.engine.check()


def test_a_next_turn_evaluates_only_what_is_new(model: LoadedModel) -> None:
    first = [BOS, *range(60, 90)]
    tokens = alone(model, request(first, 10)).tokens
    run(model.engine, request(first, 10))
    second = [*first, *tokens, 200, 201, 202, 203, 204, 205]
    (answer,) = run(model.engine, request(second, 5))
    # The last token of the answer had been chosen, not evaluated.
    assert answer.counts.cached_tokens == len(first) + len(tokens) - 1
    assert answer.text == text(model, request(second, 5))


def test_the_same_prompt_again_evaluates_its_end(model: LoadedModel) -> None:
    prompt = [BOS, *range(60, 200)]
    answers = [run(model.engine, request(prompt, 8))[0] for _ in range(3)]
    assert len({answer.text for answer in answers}) == 1
    assert [one.counts.cached_tokens for one in answers] == [0] + [len(prompt) - BEFORE_END] * 2


def test_a_next_turn_without_what_was_thought_goes_on_before_the_answer(model: LoadedModel) -> None:
    first = [BOS, *range(60, 90), 10, 11]
    run(model.engine, request(first, 20))
    second = [*first[:-2], 20, 21, *range(100, 120)]
    (answer,) = run(model.engine, request(second, 5))
    assert answer.counts.cached_tokens == len(first) - BEFORE_END
    assert answer.text == text(model, request(second, 5))
    # What was kept for the first turn is still there.
    third = [*first[:-1], 77, 78]
    assert run(model.engine, request(third, 5))[0].text == text(model, request(third, 5))


def test_texts_that_begin_alike_go_on_from_a_state_in_between(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurrent, "_APART", 40)
    with loaded(path, num_ctx=256, num_batch=16) as model:
        common = [BOS, *range(60, 160)]
        run(model.engine, request([*common, *range(2, 60)], 5))
        wanted = request([*common, *range(160, 200)], 5)
        (answer,) = run(model.engine, wanted)
        # In batches of 16, the first that ends 40 tokens or more behind the one kept before it.
        assert answer.counts.cached_tokens == 96
        assert answer.text == text(model, wanted)


def test_what_is_cancelled_can_be_gone_on_with(model: LoadedModel) -> None:
    engine, prompt = model.engine, [BOS, *range(60, 200)]
    answers = {0: Answer()}
    engine.submit(0, request(prompt, 50))
    # 64 tokens are a batch: it is cancelled in the middle of its prompt.
    step(engine, answers)
    engine.cancel(0)
    finish(engine, answers)
    (answer,) = run(engine, request(prompt, 5))
    assert answer.counts.cached_tokens == 64
    assert answer.text == text(model, request(prompt, 5))


def test_an_interrupted_step_changes_nothing(model: LoadedModel) -> None:
    engine, wanted = model.engine, request([BOS, *range(60, 160)], 12)
    answers = {0: Answer()}
    engine.submit(0, wanted)
    for _ in range(10):
        model.backend.interrupt()
        with pytest.raises(Interrupted):
            engine.step()
        model.backend.resume()
        engine.check()
        step(engine, answers)
    finish(engine, answers)
    assert answers[0].text == text(model, wanted)


def test_states_give_way_the_one_used_longest_ago_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_states(monkeypatch, 6)
    with loaded(path, num_ctx=256, num_parallel=1) as model:
        texts = [[BOS, *[60 + i] * 20] for i in range(8)]
        for prompt in texts:
            run(model.engine, request(prompt, 3))
        cached = [run(model.engine, request(prompt, 3))[0].counts.cached_tokens for prompt in texts[::-1]]
        # Of nine states three are for the one that runs, and two of each that has ended are kept.
        assert cached == [len(prompt) - BEFORE_END for prompt in texts[:3]] + [0] * 5
        assert run(model.engine, request(texts[3], 3))[0].text == text(model, request(texts[3], 3))


def test_more_requests_than_states(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_states(monkeypatch, 1)
    with loaded(path, num_ctx=128, num_parallel=2, num_batch=32) as model:
        engine = crowded(model, 8)
        wanted = [request([BOS, *range(60 + i, 90 + 2 * i)], 12) for i in range(8)]
        answers = run(engine, *wanted)
        engine.forget()
        assert [answer.text for answer in answers] == [alone(model, one).text for one in wanted]


def test_a_shift_is_refused_and_evaluates_again(path: Path) -> None:
    with loaded(path, num_ctx=64, num_parallel=2) as model:
        prompt = [BOS, *range(60, 100)]
        (answer,) = run(model.engine, request(prompt, 60, shift=True))
        assert answer.counts.generated_tokens == 60 and answer.counts.shifted_tokens > 0
        plain = alone(model, request(prompt, 60)).text
        assert answer.text.startswith(plain)


def test_nothing_is_drafted_that_could_not_be_taken_back(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = [BOS, *range(60, 90)]
    known = alone(model, request(prompt, 30)).tokens
    monkeypatch.setattr(loop, "Lookup", lambda: Prophet(known, len(prompt), 0.5, np.random.default_rng(0)))
    (answer,) = run(model.engine, request(prompt, 30, draft=3))
    assert answer.counts.drafted_tokens == 0
    assert answer.text == model.tokenizer.decode(known)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [2, 64])
def test_company_changes_no_answer(
    path: Path, seed: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_states(monkeypatch, count)
    monkeypatch.setattr(recurrent, "_APART", 24)
    assert keep_company(path, "lfm2", seed, 150) > 20


def test_texts_become_the_vectors_that_each_becomes_alone(model: LoadedModel) -> None:
    random = np.random.default_rng(3)
    texts = [random.integers(2, 258, size).tolist() for size in random.integers(1, 100, 70)]
    together = model.embed(texts)
    for index in (0, 10, 69):
        np.testing.assert_allclose(together[index], model.embed([texts[index]])[0], atol=1e-4)


@pytest.mark.parametrize("options", [LoadOptions(), LoadOptions(num_parallel=4, num_batch=64)], ids=str)
def test_a_dry_run_says_what_loading_takes(path: Path, options: LoadOptions) -> None:
    test_memory_plan.check(path, options)
