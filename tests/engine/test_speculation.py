"""Drafts change the number of steps that an answer takes, and nothing else of it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine.driving import MARGINS, Answer, finish, loaded, request, run, step
from tests.schema_corpus import trained_vocabulary
from tests.tiny_gemma import write_tiny_gemma
from tests.tiny_llama import BOS, EOS, write_tiny_llama
from tests.tiny_mllama import picture
from tests.tiny_pixtral import write_tiny_pixtral
from tests.tiny_qwenvl import write_tiny_qwenvl

from puna.engine import loop
from puna.engine.load import LoadedModel
from puna.engine.request import GenerateRequest, Image
from puna.engine.speculation.drafter import agreeing
from puna.errors import Interrupted
from puna.sampling.grammar import Grammar, Thinking
from puna.sampling.parameters import SamplingParameters

WRITERS: dict[str, Callable[[Path], Path]] = {
    "llama": write_tiny_llama,
    "gemma": write_tiny_gemma,
    "bpe": lambda path: write_tiny_llama(path, vocabulary=trained_vocabulary()),
}
ENDLESS = {EOS: -1000.0}
# Whoever has two words only repeats them.
FEW = dict.fromkeys((70, 71), 1000.0)
GREEDY = {"temperature": 0.0, "logit_bias": ENDLESS}
VARIED = {**GREEDY, "frequency_penalty": 0.7, "repeat_last_n": -1}
DRAWN = {"temperature": 0.7, "seed": 3, "logit_bias": ENDLESS}
MIROSTAT = {**DRAWN, "mirostat": 2, "repeat_penalty": 1.2}
PROMPT = [BOS, *range(20, 50)]
NAMED = {"name": {"const": "something"}, "n": {"type": "integer"}}
GRAMMARS = [
    Grammar.choice(["abcdefghijklmnopqrstuvwxyz", "a small world"]),
    Grammar.regex(r"(ab|cd|ef){20}"),
    Grammar.json_schema({"type": "object", "properties": NAMED, "required": ["name", "n"]}),
]


@dataclass
class Prophet:
    """A drafter that knows the answer, and is wrong now and then.

    Attributes:
        answer: tokens behind the prompt.
        prompt: how many tokens that has.
        wrong: how likely each drafted token is another one.
    """

    answer: list[int]
    prompt: int
    wrong: float
    random: np.random.Generator

    def draft(self, tokens: array[int], pending: int, most: int) -> list[int]:
        begin, room = len(tokens) - self.prompt, most - pending
        if room < 1 or self.random.random() < 0.2:
            return []
        known = self.answer[begin : begin + int(self.random.integers(1, room + 1))]
        return [abs(token - 1) if self.random.random() < self.wrong else token for token in known]


@pytest.fixture(params=WRITERS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LoadedModel]:
    with loaded(WRITERS[request.param](tmp_path / "model.gguf"), num_ctx=256, num_parallel=2) as model:
        yield model


def wanted(sampling: dict[str, Any], num_predict: int = 60, **options: Any) -> GenerateRequest:
    prompt = options.pop("prompt", PROMPT)
    return request(prompt, num_predict, sampling=SamplingParameters(**sampling), **options)


def plainly(model: LoadedModel, asked: GenerateRequest) -> Answer:
    """The answer one token at a time."""
    return run(model.engine, undrafted(asked))[0]


def undrafted(asked: GenerateRequest) -> GenerateRequest:
    return GenerateRequest(
        **{name: getattr(asked, name) for name in asked.__slots__ if name != "draft"}, draft=0
    )


def tokens_of(model: LoadedModel, asked: GenerateRequest) -> list[int]:
    """The tokens of the answer one at a time."""
    engine = model.engine
    engine.submit(0, undrafted(asked))
    sequence = engine._waiting[0]
    finish(engine, {0: Answer()})
    return sequence.tokens[len(asked.prompt) :].tolist()


def prophesied(
    monkeypatch: pytest.MonkeyPatch, model: LoadedModel, asked: GenerateRequest, wrong: float, seed: int = 0
) -> tuple[Answer, Answer]:
    """The answer one token at a time, and with drafts by one who knows it."""
    expected = plainly(model, asked)
    known = tokens_of(model, asked)
    random = np.random.default_rng(seed)
    monkeypatch.setattr(loop, "Lookup", lambda: Prophet(known, len(asked.prompt), wrong, random))
    found = run(model.engine, asked)[0]
    monkeypatch.undo()
    return expected, found


def assert_same(found: Answer, expected: Answer) -> None:
    assert found.text == expected.text
    one, other = found.counts, expected.counts
    assert (one.reason, one.generated_tokens, one.shifted_tokens, one.stop_text) == (
        (other.reason, other.generated_tokens, other.shifted_tokens, other.stop_text)
    )
    assert other.drafted_tokens == other.accepted_tokens == 0
    assert one.accepted_tokens <= one.drafted_tokens
    pairs = zip(found.logprobs, expected.logprobs, strict=True)
    assert all(a.id == b.id and abs(a.logprob - b.logprob) < MARGINS["gemma"] for a, b in pairs)


SAMPLINGS = {"greedy": GREEDY, "varied": VARIED, "drawn": DRAWN, "mirostat": MIROSTAT}


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_drafts_change_no_answer(
    monkeypatch: pytest.MonkeyPatch, model: LoadedModel, sampling: str, wrong: float
) -> None:
    asked = wanted({**SAMPLINGS[sampling], "logprobs": wrong == 0.1})
    expected, found = prophesied(monkeypatch, model, asked, wrong)
    assert_same(found, expected)
    assert found.counts.drafted_tokens > 30
    assert found.counts.accepted_tokens == 0 if wrong == 1 else found.counts.accepted_tokens > 10


def test_fewer_steps(monkeypatch: pytest.MonkeyPatch, model: LoadedModel) -> None:
    known = tokens_of(model, wanted(GREEDY))
    random = np.random.default_rng(0)
    monkeypatch.setattr(loop, "Lookup", lambda: Prophet(known, len(PROMPT), 0, random))
    answers = {0: Answer()}
    model.engine.submit(0, wanted(GREEDY))
    steps, evaluated = 0, 0
    while not model.engine.idle:
        report = model.engine.step()
        steps, evaluated = steps + 1, evaluated + report.tokens
        for id, event in report.events:
            answers[id].take(event)
    counts = answers[0].counts
    assert steps == 60 - counts.accepted_tokens < 30
    # All but what the cache had of the prompt, and the token that came last.
    rejected = counts.drafted_tokens - counts.accepted_tokens
    assert evaluated == len(PROMPT) - counts.cached_tokens + 60 - 1 + rejected


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_text_so_far_drafts(model: LoadedModel, sampling: str) -> None:
    chosen = {**SAMPLINGS[sampling], "logit_bias": FEW}
    found = run(model.engine, asked := wanted(chosen, 150))[0]
    assert_same(found, plainly(model, asked))
    assert found.counts.accepted_tokens > (20 if sampling == "greedy" else 0)


def test_the_limit_of_drafted_tokens(monkeypatch: pytest.MonkeyPatch, model: LoadedModel) -> None:
    drafted: list[int] = []
    evaluate = model.engine._run_drafted

    def noted(part: Any) -> None:
        drafted.append(len(part.draft))
        evaluate(part)

    monkeypatch.setattr(model.engine, "_run_drafted", noted)
    known = tokens_of(model, wanted(GREEDY))
    random = np.random.default_rng(0)
    monkeypatch.setattr(loop, "Lookup", lambda: Prophet(known, len(PROMPT), 0, random))
    answer = run(model.engine, wanted(GREEDY, draft=3))[0]
    assert max(drafted) == 3 and sum(drafted) == answer.counts.drafted_tokens
    assert run(model.engine, wanted(GREEDY, draft=0))[0].text == answer.text
    assert sum(drafted) == answer.counts.drafted_tokens


@pytest.mark.parametrize("num_predict", range(8))
def test_an_answer_that_ends_within_a_draft(
    monkeypatch: pytest.MonkeyPatch, model: LoadedModel, num_predict: int
) -> None:
    expected, found = prophesied(monkeypatch, model, wanted(VARIED, num_predict), 0, num_predict)
    assert_same(found, expected)
    assert found.counts.generated_tokens == num_predict


def test_a_stop_text_within_a_draft(monkeypatch: pytest.MonkeyPatch, model: LoadedModel) -> None:
    text = plainly(model, wanted(VARIED)).text
    for begin in range(10, 30, 4):
        asked = wanted(VARIED, stop=(text[begin : begin + 3],))
        expected, found = prophesied(monkeypatch, model, asked, 0.1, begin)
        assert_same(found, expected)
        assert found.counts.reason == "stop" and found.counts.stop_text


def test_an_end_token_within_a_draft(monkeypatch: pytest.MonkeyPatch, model: LoadedModel) -> None:
    for seed in range(5):
        asked = wanted({**DRAWN, "temperature": 1.0, "seed": seed, "logit_bias": {EOS: 2.5}}, 200)
        expected, found = prophesied(monkeypatch, model, asked, 0.05)
        assert_same(found, expected)
        assert found.counts.reason == "stop"


@pytest.mark.parametrize("grammar", GRAMMARS)
@pytest.mark.parametrize("logprobs", [False, True])
def test_grammars(
    monkeypatch: pytest.MonkeyPatch, model: LoadedModel, grammar: Grammar, logprobs: bool
) -> None:
    asked = wanted({**GREEDY, "logit_bias": {}, "logprobs": logprobs}, 80, grammar=grammar)
    for wrong in (0.0, 0.2):
        expected, found = prophesied(monkeypatch, model, asked, wrong)
        assert_same(found, expected)
        # Tokens that must follow are evaluated together without a draft.
        assert found.counts.drafted_tokens or not logprobs


def test_a_limit_on_thinking(monkeypatch: pytest.MonkeyPatch, model: LoadedModel) -> None:
    opening = model.tokenizer.encode_continuation("<t>")
    asked = wanted(VARIED, prompt=[BOS, *opening], thinking=Thinking("<t>", "</t>"), thinking_budget=10)
    expected, found = prophesied(monkeypatch, model, asked, 0.05)
    assert_same(found, expected)
    assert "</t>" in found.text and found.counts.accepted_tokens


@pytest.mark.parametrize("shift", [False, True])
def test_a_context_that_is_full(model: LoadedModel, shift: bool) -> None:
    asked = wanted({**GREEDY, "logit_bias": FEW}, 400, shift=shift)
    found = run(model.engine, asked)[0]
    assert_same(found, plainly(model, asked))
    assert found.counts.accepted_tokens > 20
    assert found.counts.shifted_tokens > 0 if shift else found.counts.reason == "length"


def test_what_was_drafted_serves_later_prompts(monkeypatch: pytest.MonkeyPatch, model: LoadedModel) -> None:
    expected, found = prophesied(monkeypatch, model, wanted(VARIED), 0.3)
    assert found.text == expected.text
    known = tokens_of(model, wanted(VARIED))
    later = wanted(VARIED, 20, prompt=[*PROMPT, *known, 40, 41])
    reused = run(model.engine, later)[0]
    assert reused.counts.cached_tokens >= len(PROMPT) + len(known) - 1
    model.engine.forget()
    assert_same(run(model.engine, undrafted(later))[0], plainly(model, later))
    assert reused.text == plainly(model, later).text


def test_only_who_is_alone_drafts(monkeypatch: pytest.MonkeyPatch, model: LoadedModel) -> None:
    known = tokens_of(model, wanted(GREEDY, 120))
    random = np.random.default_rng(0)
    monkeypatch.setattr(loop, "Lookup", lambda: Prophet(known, len(PROMPT), 0, random))
    engine, answers = model.engine, {0: Answer(), 1: Answer()}

    def steps(count: int) -> list[int]:
        """How many tokens were drafted after each."""
        drafted = []
        for _ in range(count):
            step(engine, answers)
            drafted.append(next(one.drafted for one in engine._running if one.id == 0))
        return drafted

    engine.submit(0, wanted(GREEDY, 120))
    alone = steps(4)
    assert alone[-1] > 0
    engine.submit(1, wanted(GREEDY, 5, prompt=[BOS, 60, 61]))
    together = steps(4)
    assert together == [alone[-1]] * 4
    finish(engine, answers)
    assert answers[0].counts.drafted_tokens > alone[-1]
    monkeypatch.undo()
    assert answers[0].text == plainly(model, wanted(GREEDY, 120)).text


def test_cancelled_and_interrupted_between_drafts(
    monkeypatch: pytest.MonkeyPatch, model: LoadedModel
) -> None:
    known = tokens_of(model, wanted(VARIED, 100))
    random = np.random.default_rng(0)
    monkeypatch.setattr(loop, "Lookup", lambda: Prophet(known, len(PROMPT), 0.2, random))
    engine, answers = model.engine, {0: Answer(), 1: Answer()}
    engine.submit(0, wanted(VARIED, 100))
    for _ in range(5):
        step(engine, answers)
        engine.check()
        model.backend.interrupt()
        with pytest.raises(Interrupted):
            engine.step()
        model.backend.resume()
        engine.check()
    engine.cancel(0)
    finish(engine, answers)
    assert answers[0].counts.reason == "cancelled" and answers[0].counts.drafted_tokens
    monkeypatch.undo()
    assert plainly(model, wanted(VARIED, 100)).text.startswith(answers[0].text)


def test_a_cache_that_cannot_rewind_gets_no_drafts(
    monkeypatch: pytest.MonkeyPatch, model: LoadedModel
) -> None:
    monkeypatch.setattr(type(model.evaluator.cache), "rewinds", property(lambda cache: False))
    asked = wanted(GREEDY, 100, prompt=[BOS, *[30, 31, 32] * 20])
    assert run(model.engine, asked)[0].counts.drafted_tokens == 0


def test_agreeing() -> None:
    assert agreeing([], [1]) == agreeing([1], []) == agreeing([2, 1], [1, 1]) == 0
    assert agreeing([1, 2, 3], [1, 2, 4]) == 2
    assert agreeing([1, 2], [1, 2, 4]) == agreeing([1, 2, 3], [1, 2]) == 2


@pytest.mark.parametrize("write", [write_tiny_qwenvl, write_tiny_pixtral])
def test_drafts_behind_a_picture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    """Its tokens may have taken fewer places than there are of them."""
    with loaded(write(tmp_path / "model.gguf"), num_ctx=256, num_parallel=2) as model:
        asked = wanted(GREEDY, images=(Image(3, picture(1, (40, 30))),))
        expected, found = prophesied(monkeypatch, model, asked, 0.2)
        assert_same(found, expected)
        assert found.counts.accepted_tokens > 10
