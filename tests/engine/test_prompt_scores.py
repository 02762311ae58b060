"""The log-probabilities of a prompt's tokens are those of the model, in whatever company it is read."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.driving import Answer, crowded, finish, loaded, request, run
from tests.engine.test_engine_loop import evaluated, prompts
from tests.tiny_llama import BOS, write_tiny_llama

from puna.engine.evaluator import Batch
from puna.engine.events import PromptLogprobs
from puna.engine.load import LoadedModel
from puna.engine.request import GenerateRequest
from puna.engine.scores import AT_ONCE
from puna.errors import ContextLengthExceeded
from puna.sampling.parameters import SamplingParameters

PROMPT = prompts(1, 120, 3)[0] + prompts(1, 120, 4)[0]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def model(path: Path) -> Iterator[LoadedModel]:
    with loaded(path, num_ctx=256, num_parallel=4, num_batch=64) as model:
        yield model


def asking(prompt: list[int], top: int = 0, num_predict: int = 3, **more: bool) -> GenerateRequest:
    sampling = SamplingParameters(temperature=0.0, top_logprobs=top, logprobs=top > 0)
    return request(prompt, num_predict, sampling=sampling, prompt_logprobs=True, **more)


def expected(model: LoadedModel, prompt: list[int]) -> NDArray[np.float64]:
    """log softmax of the logits of every token, the whole prompt in one batch; F64 (tokens, vocabulary)."""
    logits: NDArray[np.float64] = model.evaluator.evaluate(Batch.of(prompt, 0, 63, all_outputs=True)).astype(
        np.float64
    )
    model.evaluator.cache.remove(63, 0)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits


def check(model: LoadedModel, prompt: list[int], found: PromptLogprobs | None) -> None:
    assert found is not None
    pieces = model.tokenizer.pieces
    assert [found.first, *(token.bytes for token in found.tokens)] == [pieces[id] for id in prompt]
    assert [token.id for token in found.tokens] == prompt[1:]
    of_all = expected(model, prompt)
    of_each = of_all[range(len(prompt) - 1), prompt[1:]]
    assert np.abs(np.array([token.logprob for token in found.tokens]) - of_each).max(initial=0) < TOLERANCE
    for row, token in zip(of_all, found.tokens, strict=False):
        best = np.sort(row)[::-1][: len(token.top)]
        assert np.abs(np.array([one.logprob for one in token.top]) - best).max(initial=0) < TOLERANCE


@pytest.mark.parametrize("backend", ["reference", "ggml"])
@pytest.mark.parametrize("length", [1, 2, AT_ONCE, AT_ONCE + 1, len(PROMPT)])
def test_they_are_the_models_own(path: Path, backend: str, length: int) -> None:
    with loaded(path, backend, num_ctx=256, num_batch=64) as model:
        (answer,) = run(model.engine, asking(PROMPT[:length], top=3))
        model.engine.forget()
        check(model, PROMPT[:length], answer.prompt)
        assert answer.prompt is not None and all(len(token.top) == 3 for token in answer.prompt.tokens)
        plain = request(PROMPT[:length], 3, sampling=SamplingParameters(temperature=0.0))
        assert answer.text == run(model.engine, plain)[0].text


def test_what_the_cache_has_is_told_all_the_same(model: LoadedModel) -> None:
    run(model.engine, request(PROMPT))
    first, second = run(model.engine, asking(PROMPT), asking(PROMPT[:50]))
    check(model, PROMPT, first.prompt)
    check(model, PROMPT[:50], second.prompt)
    assert first.counts.cached_tokens == 0
    # Others go on from it.
    assert run(model.engine, request(PROMPT))[0].counts.cached_tokens == len(PROMPT) - 1


def test_company_changes_nothing(model: LoadedModel) -> None:
    wanted = prompts(8, 90, 5)
    requests = [asking(p, top=1) if i % 2 else request(p) for i, p in enumerate(wanted)]
    for index, (prompt, answer) in enumerate(zip(wanted, run(model.engine, *requests), strict=True)):
        if index % 2:
            check(model, prompt, answer.prompt)
        else:
            assert answer.prompt is None


def test_who_is_read_again_is_told_once(path: Path) -> None:
    """Four requests in room for one have to make way for each other."""
    with loaded(path, num_ctx=128, num_parallel=1, num_batch=64) as model:
        engine = crowded(model, 4)
        wanted = prompts(4, 100, 6)
        answers = {id: Answer() for id in range(4)}
        for id, prompt in enumerate(wanted):
            engine.submit(id, asking(prompt, num_predict=20))
        finish(engine, answers)
        engine.forget()
        for id, prompt in enumerate(wanted):
            check(model, prompt, answers[id].prompt)


def test_logits_are_wanted_of_few_tokens_at_a_time(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = evaluated(model, monkeypatch)
    run(model.engine, asking(PROMPT, num_predict=1))
    assert max(sizes) == AT_ONCE
    sizes.clear()
    run(model.engine, request([BOS, *PROMPT], 1))
    assert max(sizes) == 64


def test_nothing_of_such_a_prompt_is_left_out(model: LoadedModel) -> None:
    long = PROMPT * 3
    model.engine.submit(0, request(long, 1, shift=True))
    with pytest.raises(ContextLengthExceeded):
        model.engine.submit(1, asking(long, shift=True))
