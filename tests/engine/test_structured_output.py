"""Answers kept to a grammar, with a whole (tiny) model: valid, counted, stopped and reported as others."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from tests.schema_corpus import Schema, schemas, trained_vocabulary
from tests.tiny_llama import BOS, write_tiny_llama

from puna.engine import Done, LoadOptions, TextChunk
from puna.engine.choose import Chooser
from puna.engine.evaluator import Batch
from puna.engine.load import LoadedModel, load_model
from puna.errors import InvalidOption
from puna.sampling.constraints import Constraint
from puna.sampling.grammar import Grammar, Thinking
from puna.sampling.parameters import SamplingParameters
from puna.sampling.sampler import Sampler

# Random weights repeat themselves for ever without the penalty.
GREEDY = SamplingParameters(temperature=0.0, frequency_penalty=2.0, repeat_last_n=-1)
SAMPLED = SamplingParameters(temperature=1.0, top_k=0, top_p=1.0, seed=11)
PROMPT = [BOS, 70, 71, 72]
PERSON: Schema = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 999}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    """A tiny model with a trained BPE vocabulary."""
    path = tmp_path_factory.mktemp("models") / "bpe.gguf"
    write_tiny_llama(path, vocabulary=trained_vocabulary())
    with load_model(path, LoadOptions(num_threads=1, num_ctx=1024)) as model:
        yield model


def answer(
    model: LoadedModel, grammar: Grammar | None, sampling: SamplingParameters = GREEDY, **options: Any
) -> tuple[str, Done]:
    events = list(model.generate(PROMPT, sampling, grammar=grammar, **{"num_predict": 300, **options}))
    assert isinstance(events[-1], Done)
    return "".join(event.text for event in events if isinstance(event, TextChunk)), events[-1]


def assert_valid(text: str, schema: Schema) -> None:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(json.loads(text))


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_answers_that_end_satisfy_their_schema(bpe: LoadedModel, sampling: SamplingParameters) -> None:
    corpus = schemas(300)
    ended = 0
    for schema in corpus:
        jsonschema.Draft202012Validator.check_schema(schema)
        text, done = answer(bpe, Grammar.json_schema(schema), sampling, num_predict=120)
        if done.reason == "stop":
            ended += 1
            assert_valid(text, schema)
    assert ended > len(corpus) * 0.6


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_many_more_schemas(bpe: LoadedModel, seed: int) -> None:
    for schema in schemas(500, seed):
        for sampling in (GREEDY, SAMPLED):
            text, done = answer(bpe, Grammar.json_schema(schema), sampling, num_predict=120)
            if done.reason == "stop":
                assert_valid(text, schema)


def test_any_object(bpe: LoadedModel) -> None:
    biased = SamplingParameters(temperature=1.0, top_k=0, top_p=1.0, seed=3)
    grammar = Grammar.from_format("json")
    text, done = answer(bpe, grammar, biased, num_predict=900)
    assert done.reason == "stop"
    assert isinstance(json.loads(text), dict)


def test_an_answer_cut_inside_its_grammar_says_length(bpe: LoadedModel) -> None:
    text, done = answer(bpe, Grammar.json_schema(PERSON), num_predict=4)
    assert (done.reason, done.generated_tokens) == ("length", 4)
    assert text.startswith("{")
    whole, _ = answer(bpe, Grammar.json_schema(PERSON))
    assert whole.startswith(text)


def test_an_answer_that_is_complete_at_its_last_token_says_stop(bpe: LoadedModel) -> None:
    grammar = Grammar.choice(["hello"])
    text, done = answer(bpe, grammar)
    assert (text, done.reason) == ("hello", "stop")
    assert answer(bpe, grammar, num_predict=done.generated_tokens)[1].reason == "stop"
    assert answer(bpe, grammar, num_predict=done.generated_tokens - 1)[1].reason == "length"


def test_the_context_ends_a_constrained_answer_too(bpe: LoadedModel) -> None:
    endless = Grammar.regex("[a-z]+[.]{2000}")
    _, done = answer(bpe, endless, num_predict=-1)
    assert done.reason == "length"
    assert done.prompt_tokens + done.generated_tokens == bpe.num_ctx


def test_stop_strings_end_a_constrained_answer(bpe: LoadedModel) -> None:
    whole, _ = answer(bpe, Grammar.json_schema(PERSON))
    text, done = answer(bpe, Grammar.json_schema(PERSON), stop=['"age"'])
    assert (text, done.reason) == (whole[: whole.index('"age"')], "stop")


def test_an_answer_may_go_on_where_its_grammar_allows_the_end(bpe: LoadedModel) -> None:
    ends = bpe.tokenizer.end_ids
    grammar = Grammar.regex("[a-z]+")
    longer = SamplingParameters(temperature=0.0, logit_bias=dict.fromkeys(ends, -1000.0))
    assert answer(bpe, grammar, longer, num_predict=40)[1].reason == "length"
    at_once = SamplingParameters(temperature=0.0, logit_bias=dict.fromkeys(ends, 1000.0))
    text, done = answer(bpe, grammar, at_once)
    assert (done.reason, done.generated_tokens) == ("stop", 1)
    assert text


def test_tokens_that_must_follow_are_evaluated_together(
    bpe: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    original = bpe.evaluator.evaluate

    def counting(batch: Batch) -> object:
        batches.append(len(batch.tokens))
        return original(batch)

    monkeypatch.setattr(bpe.evaluator, "evaluate", counting)
    fixed = {"const": "hello world, the value of the city is naïve"}
    text, done = answer(bpe, Grammar.json_schema(fixed), num_predict=50)
    assert json.loads(text) == fixed["const"]
    assert done.generated_tokens > 10
    assert len(batches) <= 3  # the prompt, and at most a step before what is forced


def test_forced_tokens_change_no_logits(bpe: LoadedModel) -> None:
    """The cache after spans of forced tokens is the one after the same tokens, one at a time."""
    bpe.engine.forget()
    _, done = answer(bpe, Grammar.json_schema(PERSON))
    (prefix,) = bpe.engine.prefixes
    tokens = list(prefix.tokens)
    assert done.generated_tokens > 8
    last = bpe.evaluator.evaluate(Batch.of([80], len(tokens), prefix.number))[-1].copy()
    bpe.engine.forget()
    for position, token in enumerate(tokens):
        bpe.evaluator.evaluate(Batch.of([token], position))
    alone = bpe.evaluator.evaluate(Batch.of([80], len(tokens)))[-1]
    bpe.evaluator.cache.remove(0, 0, None)
    assert abs(last - alone).max() < 1e-4


def test_a_forced_span_longer_than_a_batch(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "bpe.gguf", vocabulary=trained_vocabulary())
    with load_model(path, LoadOptions(num_threads=1, num_batch=4)) as model:
        text, done = answer(model, Grammar.choice(["abcdefghijklmnopqrstuvwxyz"]))
    assert (text, done.reason) == ("abcdefghijklmnopqrstuvwxyz", "stop")


def test_repeatable_with_a_seed_and_different_without(bpe: LoadedModel) -> None:
    grammar = Grammar.json_schema({"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 12})
    seeded = SamplingParameters(temperature=1.0, seed=5)
    assert answer(bpe, grammar, seeded, num_predict=60)[0] == answer(bpe, grammar, seeded, num_predict=60)[0]
    unseeded = SamplingParameters(temperature=1.0)
    assert len({answer(bpe, grammar, unseeded, num_predict=60)[0] for _ in range(6)}) > 1


def _choices(model: LoadedModel, parameters: SamplingParameters, constraint: Constraint) -> list[int]:
    sampler = Sampler(parameters, model.tokenizer.vocab_size, PROMPT)
    model.engine.forget()
    tokens: list[int] = []
    logits = model.evaluator.evaluate(Batch.of(PROMPT, 0))[-1]
    with Chooser(sampler, constraint) as chooser:
        while not chooser.complete:
            for choice in chooser.choose(logits, 100):
                logits = model.evaluator.evaluate(Batch.of([choice.token], len(PROMPT) + len(tokens)))[-1]
                tokens.append(choice.token)
    model.evaluator.cache.remove(0, 0, None)
    return tokens


def test_with_log_probabilities_every_token_is_sampled(
    bpe: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammar = Grammar.json_schema(PERSON)
    plain = _choices(bpe, GREEDY, bpe.constraints.start(grammar))
    sampled: list[float] = []
    original = Sampler.sample

    def recording(self: Sampler, *arguments: Any) -> Any:
        choice = original(self, *arguments)
        assert choice.logprob is not None
        assert len(choice.top_logprobs) == 3
        sampled.append(choice.logprob)
        return choice

    monkeypatch.setattr(Sampler, "sample", recording)
    reporting = SamplingParameters(
        temperature=0.0, frequency_penalty=2.0, repeat_last_n=-1, logprobs=True, top_logprobs=3
    )
    assert _choices(bpe, reporting, bpe.constraints.start(grammar)) == plain
    assert len(sampled) == len(plain)
    # Of the model's own probabilities: forced tokens are unlikely ones here.
    assert max(sampled) < -2


def test_penalties_count_forced_tokens() -> None:
    parameters = SamplingParameters(temperature=0.0, presence_penalty=5.0)
    sampler = Sampler(parameters, 3)
    sampler.accept(2)
    assert sampler.sample(np.array([1.0, 0.0, 4.0], np.float32)).token == 0


def test_a_narrow_range_with_an_exclusive_bound(bpe: LoadedModel) -> None:
    narrow = {"type": "number", "exclusiveMinimum": 29, "maximum": 29.5}
    token = bpe.tokenizer.encode("29", add_special=False)
    constraint = bpe.constraint(Grammar.json_schema(narrow), None, PROMPT)
    for id in token:
        constraint.advance(id)
    assert not constraint.accepting


def test_masks_computed_beside_the_model_are_the_same(bpe: LoadedModel) -> None:
    grammar = Grammar.json_schema(PERSON)
    sampler = Sampler(GREEDY, bpe.tokenizer.vocab_size, PROMPT)
    logits = np.zeros(bpe.tokenizer.vocab_size, np.float32)
    tokens: list[int] = []
    with Chooser(sampler, bpe.constraints.start(grammar)) as chooser:
        while not chooser.complete:
            tokens += [choice.token for choice in chooser.choose(logits, 100)]
            chooser.prepare()
    beside = list(tokens)
    tokens.clear()
    again = Sampler(GREEDY, bpe.tokenizer.vocab_size, PROMPT)
    with Chooser(again, bpe.constraints.start(grammar)) as chooser:
        while not chooser.complete:
            tokens += [choice.token for choice in chooser.choose(logits, 100)]
    assert tokens == beside


def test_an_answer_that_nobody_waits_for_leaves_no_thread(bpe: LoadedModel) -> None:
    before = threading.active_count()
    events = bpe.generate(PROMPT, GREEDY, grammar=Grammar.json_schema(PERSON), num_predict=50)
    next(events)
    events.close()
    assert threading.active_count() == before


# Thinking


THINK = Thinking("<think>", "</think>")


def test_thoughts_are_left_alone_and_then_the_grammar_holds(bpe: LoadedModel) -> None:
    prompt = [*PROMPT, *bpe.tokenizer.encode("<think>\n", add_special=False)]
    grammar = Grammar.json_schema(PERSON)
    ends = dict.fromkeys(bpe.tokenizer.end_ids, 1000.0)
    events = bpe.generate(
        prompt,
        SamplingParameters(temperature=1.0, top_k=0, seed=2, logit_bias=ends),
        grammar=grammar,
        thinking=THINK,
        num_predict=100,
    )
    text = "".join(event.text for event in events if isinstance(event, TextChunk))
    # The end is out of reach while the model thinks, however much it wants it.
    assert len(text) > 100
    assert not text.startswith("{")


def test_a_model_that_does_not_think_is_constrained_at_once(bpe: LoadedModel) -> None:
    opening = bpe.tokenizer.encode("<think>", add_special=False)
    away = SamplingParameters(
        temperature=0.0, frequency_penalty=2.0, repeat_last_n=-1, logit_bias={opening[0]: -1000.0}
    )
    text, done = answer(bpe, Grammar.json_schema(PERSON), away, thinking=THINK)
    assert done.reason == "stop"
    assert_valid(text, PERSON)


# What is refused


@pytest.mark.parametrize(
    "schema, reason",
    [
        ({"$ref": "#"}, "no text satisfies"),
        ({"type": "nope"}, "Invalid type"),
        ({"enum": []}, "anyOf is empty"),
    ],
)
def test_a_refused_grammar_is_an_error_before_anything_is_evaluated(
    bpe: LoadedModel, schema: Schema, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bpe.evaluator, "evaluate", None)
    with pytest.raises(InvalidOption, match=reason):
        bpe.generate(PROMPT, GREEDY, grammar=Grammar.json_schema(schema))


def test_ignored_keywords_are_warnings(bpe: LoadedModel) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "maxItems": 3}
    constraint = bpe.constraint(Grammar.json_schema(schema), None, PROMPT)
    assert any("uniqueItems" in warning for warning in constraint.warnings)
    assert bpe.constraint(Grammar.json_schema(PERSON), None, PROMPT).warnings == ()
