"""Many requests at once: each gets the answer that it gets alone, whatever the others do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine.driving import (
    GREEDY,
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
from tests.schema_corpus import trained_vocabulary
from tests.tiny_gemma import WINDOW, write_tiny_gemma
from tests.tiny_llama import BOS, write_tiny_llama

from puna.engine.evaluator import Batch, Evaluator
from puna.engine.load import LoadedModel
from puna.engine.request import GenerateRequest
from puna.errors import BackendError, ContextLengthExceeded, InternalError, Interrupted, InvalidOption
from puna.kvcache import Causal
from puna.kvcache.cells import BITS
from puna.sampling.grammar import Grammar
from puna.sampling.parameters import SamplingParameters

BACKENDS = ["reference", "ggml"]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "llama": write_tiny_llama(folder / "llama.gguf"),
        "gemma": write_tiny_gemma(folder / "gemma.gguf"),
        "bpe": write_tiny_llama(folder / "bpe.gguf", vocabulary=trained_vocabulary()),
    }


@pytest.fixture
def model(paths: dict[str, Path]) -> Iterator[LoadedModel]:
    with loaded(paths["llama"], num_ctx=256, num_parallel=8, num_batch=64) as model:
        yield model


def prompts(count: int, longest: int, seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    sizes = random.integers(1, longest, count)
    return [[BOS, *random.integers(2, 258, size).tolist()] for size in sizes]


def evaluated(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches from now on."""
    sizes: list[int] = []
    original = model.evaluator.evaluate

    def counting(batch: Batch) -> object:
        sizes.append(len(batch.tokens))
        return original(batch)

    monkeypatch.setattr(model.evaluator, "evaluate", counting)
    return sizes


# Answers


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_many_at_once_answer_as_each_alone(paths: dict[str, Path], name: str, backend: str) -> None:
    sampling = SamplingParameters(**VARIED, logprobs=True)
    wanted = [request(p, 4 + 3 * i % 25, sampling=sampling) for i, p in enumerate(prompts(32, 90))]
    with loaded(paths[name], backend, num_ctx=160, num_parallel=32, num_batch=64) as model:
        answers = run(model.engine, *wanted)
        model.engine.forget()
        for given, found in zip(wanted, answers, strict=True):
            tokens = [token.id for token in found.logprobs]
            assert found.text == model.tokenizer.decode(tokens)
            assert alone(model, given).agrees(tokens, MARGINS[name] if backend == "ggml" else 0.0)


def test_draws_do_not_depend_on_the_company(model: LoadedModel) -> None:
    wanted = [
        request(p, sampling=SamplingParameters(temperature=1.5, seed=i)) for i, p in enumerate(prompts(8, 40))
    ]
    together = [answer.text for answer in run(model.engine, *wanted)]
    model.engine.forget()
    assert together == [run(model.engine, one)[0].text for one in wanted]
    assert len(set(together)) == 8


def test_no_more_run_at_once_than_allowed_and_nobody_starves(paths: dict[str, Path]) -> None:
    with loaded(paths["llama"], num_ctx=64, num_parallel=3) as model:
        engine = model.engine
        answers = {id: Answer() for id in range(12)}
        for id, prompt in enumerate(prompts(12, 30)):
            engine.submit(id, request(prompt, 6))
        ends: list[int] = []
        while not engine.idle:
            report = engine.step()
            assert report.sequences <= 3
            for id, event in report.events:
                answers[id].take(event)
                if answers[id].done:
                    ends.append(id)
        assert sorted(ends) == list(range(12))
        assert all(abs(place - id) < 3 for place, id in enumerate(ends))


def test_a_long_prompt_does_not_hold_up_answers(model: LoadedModel) -> None:
    engine = model.engine
    answers = {0: Answer(), 1: Answer()}
    engine.submit(0, request([BOS, 70], 30))
    step(engine, answers)
    engine.submit(1, request([BOS, *range(10, 230)], 3))
    for expected in range(2, 5):
        step(engine, answers)
        assert len(answers[0].text) >= expected - 1
    finish(engine, answers)


def test_reports_say_what_was_done(model: LoadedModel) -> None:
    engine = model.engine
    engine.submit(0, request([BOS, 70, 71], 2))
    engine.submit(1, request([BOS, 80, 81, 82], 1))
    report = engine.step()
    assert (report.tokens, report.sequences, report.waiting, report.cells) == (7, 2, 0, 7)
    report = engine.step()
    assert (report.tokens, report.sequences) == (1, 1)
    assert engine.idle
    assert engine.step().events == []


# What the cache has already


def test_a_next_turn_evaluates_only_what_is_new(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [BOS, *range(60, 90)]
    (answer,) = run(model.engine, request(first, 10))
    _, tokens, _ = alone(model, request(first, 10))
    assert answer.counts.cached_tokens == 0
    sizes = evaluated(model, monkeypatch)
    second = [*first, *tokens, 200, 201, 202]
    (answer,) = run(model.engine, request(second, 5))
    # The last token of the answer had been chosen, not evaluated.
    assert answer.counts.cached_tokens == len(first) + len(tokens) - 1
    assert sizes[0] == 4
    assert answer.text == alone(model, request(second, 5)).text
    assert len(model.engine.prefixes) == 1


def test_the_same_prompt_again_evaluates_one_token(model: LoadedModel) -> None:
    prompt = [BOS, *range(60, 90)]
    first, second = (run(model.engine, request(prompt, 8))[0] for _ in range(2))
    assert second.text == first.text
    assert second.counts.cached_tokens == len(prompt) - 1
    # The two are alike, and one of them is enough.
    assert len(model.engine.prefixes) == 1


def test_what_is_common_to_running_sequences_is_stored_once(model: LoadedModel) -> None:
    engine, common = model.engine, [BOS, *range(60, 120)]
    answers = {id: Answer() for id in range(4)}
    engine.submit(0, request([*common, 200], 30))
    step(engine, answers)
    for id in (1, 2, 3):
        engine.submit(id, request([*common, 200 + id], 30))
    report = engine.step()
    assert report.tokens == 1 + 3
    assert report.cells == len(common) + 1 + 4
    for id, event in report.events:
        answers[id].take(event)
    finish(engine, answers)
    engine.forget()
    for id, answer in answers.items():
        assert answer.counts.cached_tokens == (len(common) if id else 0)
        assert answer.text == alone(model, request([*common, 200 + id], 30)).text


def test_other_scopes_share_nothing(model: LoadedModel) -> None:
    prompt = [BOS, *range(60, 90)]
    for scope, cached in (("a", 0), ("b", 0), ("a", 30), ("b", 30), ("", 0)):
        (answer,) = run(model.engine, request(prompt, 4, scope=scope))
        assert answer.counts.cached_tokens == cached


def test_a_prompt_that_goes_another_way_leaves_the_first_as_it_was(model: LoadedModel) -> None:
    one, other = [BOS, *range(60, 90)], [BOS, *range(60, 80), 5, 6, 7]
    first = run(model.engine, request(one, 8))[0]
    assert run(model.engine, request(other, 8))[0].counts.cached_tokens == 21
    again = run(model.engine, request(one, 8))[0]
    assert (again.text, again.counts.cached_tokens) == (first.text, 30)


def test_prefixes_give_way_the_one_used_longest_ago_first(paths: dict[str, Path]) -> None:
    with loaded(paths["llama"], num_ctx=128, num_parallel=2) as model:
        texts = [[60 + i] * 71 for i in range(3)]
        for text in (texts[0], texts[1], texts[0], texts[2], texts[2]):
            last = run(model.engine, request(text, 2))[0]
        assert last.counts.cached_tokens == 70
        assert run(model.engine, request(texts[0], 2))[0].counts.cached_tokens == 70
        run(model.engine, request([90] * 121, 2))
        # Room for 120 more was made by the second text and the third, which had been used longest ago.
        assert run(model.engine, request(texts[0], 2))[0].counts.cached_tokens == 70
        assert run(model.engine, request(texts[1], 2))[0].counts.cached_tokens == 0


def test_more_prefixes_than_sequence_numbers(model: LoadedModel) -> None:
    for i in range(80):
        run(model.engine, request([2 + i, 9], 1))
    assert len(model.engine.prefixes) == 64
    # The one that would have to go lends its number, too.
    assert run(model.engine, request([2 + 16, 8, 8], 1))[0].counts.cached_tokens == 1
    assert run(model.engine, request([2 + 79, 9, 9], 1))[0].counts.cached_tokens == 2
    assert run(model.engine, request([2, 9, 9], 1))[0].counts.cached_tokens == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_window_resumes_only_where_it_has_everything(paths: dict[str, Path], backend: str) -> None:
    long = [BOS, *range(60, 60 + 3 * WINDOW)]
    with loaded(paths["gemma"], backend, num_ctx=256, num_batch=32) as model:
        expected, tokens, _ = alone(model, request(long, 8))
        assert run(model.engine, request(long, 8))[0].text == expected
        # Where it ended it can go on, before that the window has lost what would be seen.
        following = [*long, *tokens, 9]
        (answer,) = run(model.engine, request(following, 4))
        assert answer.counts.cached_tokens == len(long) + len(tokens) - 1
        (answer,) = run(model.engine, request(long, 8))
        assert (answer.text, answer.counts.cached_tokens) == (expected, 0)
        model.engine.forget()
        assert answer.text == expected
        short = [BOS, *range(60, 70)]
        run(model.engine, request(short, 4))
        assert run(model.engine, request([*short, 5], 4))[0].counts.cached_tokens == len(short)


# Room


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_who_gives_up_its_cells_answers_as_if_it_had_not(
    paths: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loaded(paths[name], num_ctx=256, num_parallel=1, num_batch=64) as model:
        engine = crowded(model, 6)
        wanted = [request(p, 90) for p in prompts(6, 30, seed=3)]
        given_up: list[int] = []
        original = engine._make_room

        def counting(error: Any) -> None:
            given_up.append(len(engine._running))
            original(error)

        monkeypatch.setattr(engine, "_make_room", counting)
        answers = run(engine, *wanted)
        assert len(given_up) > 1
        engine.forget()
        engine.check()
        for given, found in zip(wanted, answers, strict=True):
            assert (found.text, found.counts.generated_tokens) == (alone(model, given).text, 90)
            assert found.counts.prompt_tokens == len(given.prompt)


@pytest.mark.parametrize("backend", BACKENDS)
def test_windows_are_shared_by_as_many_as_the_cache_was_made_for(
    paths: dict[str, Path], backend: str
) -> None:
    batch = 200
    assert 2 * WINDOW + batch <= 256 < 2 * (WINDOW + batch), "room for both that adds up to too much"
    wanted = [request([BOS, *[60 + i] * (WINDOW + batch + 40)], 12) for i in range(2)]
    with loaded(paths["gemma"], backend, num_ctx=512, num_parallel=2, num_batch=batch) as model:
        engine, answers = model.engine, {0: Answer(), 1: Answer()}
        for id, one in enumerate(wanted):
            engine.submit(id, one)
        report = engine.step()
        assert (report.sequences, report.waiting) == (2, 0)
        finish(engine, answers)
        engine.forget()
        assert [answers[id].text for id in (0, 1)] == [alone(model, one).text for one in wanted]


def test_who_comes_after_one_that_is_cancelled_while_it_waits_is_let_in(paths: dict[str, Path]) -> None:
    with loaded(paths["llama"], num_ctx=256, num_parallel=1) as model:
        engine, answers = crowded(model, 3), {id: Answer() for id in range(3)}
        engine.submit(0, request([BOS, *[60] * 100], 20))
        engine.submit(1, request([BOS, *[61] * 200], 20))
        engine.submit(2, request([BOS, 70], 5))
        for _ in range(2):
            assert engine.step().waiting == 2
        engine.cancel(1)
        assert engine.step().waiting == 0
        engine.cancel(0)
        engine.cancel(2)
        finish(engine, answers)


def test_a_window_has_room_for_another_once_prompts_are_read(paths: dict[str, Path]) -> None:
    with loaded(paths["gemma"], num_ctx=1024, num_parallel=1, num_batch=200) as model:
        engine = crowded(model, 3)
        for id, length in enumerate((230, 230, 150)):
            engine.submit(id, request([BOS, *[60 + id] * length], 20))
        waiting = [engine.step().waiting for _ in range(5)]
        assert waiting == [1, 1, 1, 0, 0]
        finish(engine, {id: Answer() for id in range(3)})


# The context


def test_a_context_that_is_full_ends_the_answer_or_shifts(paths: dict[str, Path]) -> None:
    with loaded(paths["llama"], num_ctx=64, num_parallel=2) as model:
        prompt = [BOS, *range(60, 100)]
        plain = run(model.engine, request(prompt, -1))[0]
        assert (plain.counts.reason, plain.counts.generated_tokens) == ("length", 64 - 41)
        model.engine.forget()
        shifted = run(model.engine, request(prompt, 100, shift=True, num_keep=4))[0]
        assert shifted.text.startswith(plain.text)
        assert (shifted.counts.reason, shifted.counts.generated_tokens) == ("length", 100)
        # 41 + 99 tokens were evaluated, and each time half of the 60 that are not kept goes.
        assert shifted.counts.shifted_tokens == 90


@pytest.mark.parametrize(("num_keep", "dropped"), [(-1, 23), (0, 64), (1000, 23)])
def test_what_a_shift_keeps(paths: dict[str, Path], num_keep: int, dropped: int) -> None:
    with loaded(paths["llama"], num_ctx=64) as model:
        prompt = [BOS, *range(60, 100)]
        (answer,) = run(model.engine, request(prompt, 60, shift=True, num_keep=num_keep))
        assert answer.counts.generated_tokens == 60
        kept = 0 if num_keep == 0 else len(prompt)
        half = (64 - kept) // 2
        assert answer.counts.shifted_tokens % half == 0
        assert 100 - answer.counts.shifted_tokens <= 64
        # What stood behind other tokens once is of no use to anybody else.
        assert [list(prefix.tokens) for prefix in model.engine.prefixes] == ([prompt] if kept else [])


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_a_shift_that_the_cache_refuses_evaluates_again(paths: dict[str, Path], name: str) -> None:
    with loaded(paths[name], num_ctx=64, num_parallel=2) as model:
        # What two sequences share cannot move, and a window lacks what comes into sight.
        common = [BOS, *range(60, 110)]
        both = [request([*common, last], 60, shift=True) for last in (5, 6)]
        answers = run(model.engine, both[0], both[1])
        assert [answer.counts.generated_tokens for answer in answers] == [60, 60]
        assert all(answer.counts.shifted_tokens > 0 for answer in answers)


def test_a_prompt_that_is_too_long(model: LoadedModel) -> None:
    prompt = [2 + i % 250 for i in range(300)]
    with pytest.raises(ContextLengthExceeded, match=r"300 tokens.* 256"):
        model.engine.submit(0, request(prompt))
    (answer,) = run(model.engine, request(prompt, 3, shift=True, num_keep=6))
    assert answer.counts.prompt_tokens == 6 + 125
    assert answer.counts.shifted_tokens == 300 - 131
    model.engine.forget()
    assert answer.text == alone(model, request(prompt[:6] + prompt[-125:], 3)).text
    (answer,) = run(model.engine, request(prompt, 3, shift=True, num_keep=-1))
    assert answer.counts.generated_tokens == 3


# Ends


def test_a_request_can_be_cancelled_at_any_time(model: LoadedModel) -> None:
    engine, answers = model.engine, {id: Answer() for id in range(4)}
    long = [2 + i % 250 for i in range(200)]
    engine.submit(0, request(long, 10))
    engine.submit(1, request([BOS, 70], 10))
    step(engine, answers)
    engine.cancel(0)  # in the middle of its prompt
    step(engine, answers)
    assert answers[0].counts.reason == "cancelled"
    assert answers[0].counts.generated_tokens == 0
    engine.cancel(1)  # after two tokens
    engine.submit(2, request([BOS, 71], 10))
    engine.cancel(2)  # before anything
    engine.cancel(2)
    engine.cancel(77)
    step(engine, answers)
    assert answers[1].counts.generated_tokens == 2
    assert answers[2].counts == answers[2].counts
    assert (answers[2].counts.prompt_tokens, answers[2].counts.prompt_seconds) == (2, 0.0)
    assert engine.idle
    engine.check()
    # What was evaluated of the long prompt was not in vain.
    assert run(engine, request(long, 1))[0].counts.cached_tokens >= 62


def test_ids_can_be_used_again_but_not_at_once(model: LoadedModel) -> None:
    engine = model.engine
    engine.submit(0, request([BOS, 70], 3))
    with pytest.raises(InvalidOption, match="id 0"):
        engine.submit(0, request([BOS, 71], 3))
    answers = {0: Answer()}
    finish(engine, answers)
    assert run(engine, request([BOS, 70], 3))[0].text == answers[0].text


@pytest.mark.parametrize("token", [-1, 258, 2**40])
def test_tokens_that_the_model_does_not_have_are_refused(model: LoadedModel, token: int) -> None:
    with pytest.raises(InvalidOption, match=str(token)):
        model.engine.submit(0, request([BOS, token, 5]))
    assert model.engine.idle


def test_an_interrupted_step_changes_nothing(model: LoadedModel) -> None:
    engine, answers = model.engine, {0: Answer(), 1: Answer()}
    wanted = [request(prompt, 9) for prompt in prompts(2, 60)]
    for id, one in enumerate(wanted):
        engine.submit(id, one)
    for _ in range(4):
        model.backend.interrupt()
        with pytest.raises(Interrupted):
            engine.step()
        engine.check()
        model.backend.resume()
        step(engine, answers)
    finish(engine, answers)
    engine.forget()
    assert [answers[id].text for id in (0, 1)] == [alone(model, one).text for one in wanted]


def test_logits_that_make_no_sense_end_one_answer_only(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Evaluator.evaluate

    def damaged(self: Evaluator, batch: Batch) -> Any:
        logits = original(self, batch).copy()
        logits[0] = np.nan
        return logits

    monkeypatch.setattr(Evaluator, "evaluate", damaged)
    engine, answers = model.engine, {0: Answer(), 1: Answer()}
    engine.submit(0, request([BOS, 70], 5))
    engine.submit(1, request([BOS, 71], 5))
    step(engine, answers)
    monkeypatch.undo()
    finish(engine, answers)
    assert "damaged" in str(answers[0].error)
    engine.forget()
    assert answers[1].text == alone(model, request([BOS, 71], 5)).text


def test_a_computation_that_fails_ends_the_answers_it_was_for(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Evaluator, *shape: object) -> Any:
        raise BackendError("out of order")

    engine, answers = model.engine, {0: Answer(), 1: Answer()}
    engine.submit(0, request([BOS, 70], 5))
    engine.submit(1, request([BOS, 71], 5))
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "_graph", failing)
        step(engine, answers)
    assert [str(answer.error) for answer in answers.values()] == ["out of order"] * 2
    assert engine.idle
    engine.check()
    assert run(engine, request([BOS, 70], 5))[0].counts.cached_tokens == 0


def test_the_books_are_checked(model: LoadedModel) -> None:
    run(model.engine, request([BOS, 70, 71], 3))
    model.evaluator.cache.start([0], [40])
    with pytest.raises(InternalError, match="sequence 40"):
        model.engine.check()
    model.evaluator.cache.remove(40, 0)
    model.engine.check()
    (prefix,) = model.engine.prefixes
    model.evaluator.cache.remove(prefix.number, 2)
    with pytest.raises(InternalError, match="should have"):
        model.engine.check()


# Grammars and log-probabilities


def test_grammars_in_company(paths: dict[str, Path]) -> None:
    grammars = [
        Grammar.choice(["abcdefghijklmnopqrstuvwxyz"]),
        Grammar.json_schema({"const": "hello world, the value of the city is naïve"}),
        None,
        Grammar.regex("[a-z]{3,12}"),
        None,
        Grammar.choice(["red", "green"]),
    ]
    with loaded(paths["bpe"], num_ctx=256, num_parallel=6, num_batch=16) as model:
        vocabulary = model.tokenizer.vocab_size
        wanted = [
            request([BOS, 2 + i % vocabulary, 70, 71], 60, grammar=grammar)
            for i, grammar in enumerate(grammars)
        ]
        together = [answer.text for answer in run(model.engine, *wanted)]
        model.engine.forget()
        assert together == [run(model.engine, one)[0].text for one in wanted]
        assert together[0] == "abcdefghijklmnopqrstuvwxyz"
        assert together[1] == '"hello world, the value of the city is naïve"'


def plain_logprobs(model: LoadedModel, wanted: GenerateRequest) -> list[tuple[int, float, list[int]]]:
    """By a softmax over the logits of one pass over everything."""
    _, tokens, _ = alone(model, wanted)
    whole = [*wanted.prompt, *tokens[:-1]]
    every = model.evaluator.evaluate(Batch.of(whole, 0, all_outputs=True))[len(wanted.prompt) - 1 :]
    logits = every.astype(np.float64)
    model.evaluator.cache.remove(0, 0)
    found = np.log(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    return [
        (token, float(row[token]), np.argsort(-row, kind="stable")[:3].tolist())
        for token, row in zip(tokens, found, strict=True)
    ]


def test_log_probabilities_are_those_of_the_raw_logits(model: LoadedModel) -> None:
    sampling = SamplingParameters(**VARIED, logprobs=True, top_logprobs=3)
    wanted = [request(p, 12, sampling=sampling) for p in prompts(5, 30)]
    answers = run(model.engine, *wanted)
    model.engine.forget()
    for given, answer in zip(wanted, answers, strict=True):
        expected = plain_logprobs(model, given)
        assert [token.id for token in answer.logprobs] == [token for token, _, _ in expected]
        np.testing.assert_allclose(
            [token.logprob for token in answer.logprobs], [logprob for _, logprob, _ in expected], atol=1e-4
        )
        assert [[top.id for top in token.top] for token in answer.logprobs] == [top for _, _, top in expected]
        pieces = model.tokenizer.pieces
        assert all(token.bytes == pieces[token.id] for token in answer.logprobs)
        assert b"".join(token.bytes for token in answer.logprobs).decode(errors="replace") == answer.text


def test_log_probabilities_end_where_the_text_does(model: LoadedModel) -> None:
    reporting = SamplingParameters(**VARIED, logprobs=True)
    prompt = [BOS, 70, 71]
    whole = run(model.engine, request(prompt, 30, sampling=reporting))[0]
    stop = whole.text[9:12]
    cut = run(model.engine, request(prompt, 30, sampling=reporting, stop=(stop,)))[0]
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert [token.id for token in cut.logprobs] == [token.id for token in whole.logprobs][: len(cut.logprobs)]
    text = b"".join(token.bytes for token in cut.logprobs).decode(errors="replace")
    assert text.startswith(cut.text)
    assert cut.counts.reason == "stop"


def test_with_log_probabilities_forced_tokens_are_told_of_too(paths: dict[str, Path]) -> None:
    with loaded(paths["bpe"], num_ctx=256) as model:
        sampling = SamplingParameters(temperature=0.0, logprobs=True)
        grammar = Grammar.choice(["abcdefghijklmnopqrstuvwxyz"])
        (answer,) = run(model.engine, request([BOS, 70], 60, sampling=sampling, grammar=grammar))
        assert b"".join(token.bytes for token in answer.logprobs).decode() == answer.text
        assert len(answer.logprobs) == answer.counts.generated_tokens


# Graphs


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_of_a_batch_s_logits_can_be_had(paths: dict[str, Path], backend: str) -> None:
    tokens, positions = np.arange(20, 27, dtype=np.int32), np.zeros(7, np.int32)
    numbers = np.arange(7, dtype=np.int32)
    with loaded(paths["llama"], backend, num_ctx=32, num_parallel=8) as model:
        single = []
        for token in tokens.tolist():
            single.append(model.evaluator.evaluate(Batch.of([token], 0, 60)).copy()[0])
            model.evaluator.cache.remove(60, 0)
        for outputs in ([0, 1, 2, 3, 4, 5, 6], [2, 5, 6], [6], []):
            found = model.evaluator.evaluate(Batch(tokens, positions, numbers, np.array(outputs, np.int32)))
            assert found.shape == (len(outputs), 258)
            np.testing.assert_allclose(
                found, np.array([single[i] for i in outputs]).reshape(-1, 258), atol=1e-4
            )
            for number in range(7):
                model.evaluator.cache.remove(number, 0)


def test_steps_run_on_graphs_that_are_there(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tuple[int, int, Any, Any]] = []
    original = Evaluator._trace

    def counting(
        self: Evaluator, context: Any, tokens: int, outputs: int, history: Any, features: Any, adapters: Any
    ) -> Any:
        built.append((tokens, outputs, history, features))
        return original(self, context, tokens, outputs, history, features, adapters)

    monkeypatch.setattr(Evaluator, "_trace", counting)
    for _ in range(3):
        model.engine.forget()
        run(model.engine, *[request([2 + i], 4 + 3 * i) for i in range(8)])
    # One for each number of sequences that go on side by side.
    assert sorted(built) == [(count, count, (0, 256), None) for count in range(1, 9)]


def test_sampling_parameters_of_the_tests_vary_the_text(model: LoadedModel) -> None:
    text = run(model.engine, request([BOS, 70], 40))[0].text
    assert len(set(text)) > 10
    assert GREEDY.temperature == 0


def test_who_comes_when_the_cache_is_full_lies_together(tmp_path: Path) -> None:
    """Texts that ended make room, but for the one with which the new one begins; whoever runs stays."""
    random = np.random.default_rng(3)
    with loaded(write_tiny_llama(tmp_path / "tiny.gguf"), num_ctx=128, num_parallel=4) as model:
        engine, cache = model.engine, model.evaluator.cache
        assert isinstance(cache, Causal)
        for number in range(90):
            length = int(random.integers(2, 100))
            engine.submit(number, request([BOS, 70, *random.integers(2, 250, length).tolist()], 8))
            while not engine.idle:
                engine.step()
                for one in engine._running:
                    begin, end = cache.cells.span(BITS[one.number])
                    assert end - begin == one.held
        assert len(engine.prefixes) > 5
        engine.check()
