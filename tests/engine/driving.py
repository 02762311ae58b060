"""Driving an engine, and the plainest way to the same answers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tests.tiny_llama import EOS

from puna.engine.evaluator import Batch
from puna.engine.events import Done, TextChunk, TokenLogprob
from puna.engine.load import LoadedModel, load_model
from puna.engine.loop import Engine
from puna.engine.options import LoadOptions
from puna.engine.request import GenerateRequest
from puna.errors import PunaError
from puna.sampling.parameters import SamplingParameters
from puna.sampling.sampler import Sampler

# Random weights repeat themselves for ever without the penalty, or end at any time.
VARIED: dict[str, Any] = {
    "temperature": 0.0,
    "frequency_penalty": 0.7,
    "repeat_last_n": -1,
    "logit_bias": {EOS: -1000.0},
}
_APART = 63
GREEDY = SamplingParameters(**VARIED)


@dataclass
class Answer:
    """What came of one request."""

    text: str = ""
    chunks: list[TextChunk] = field(default_factory=list)
    done: Done | None = None
    error: PunaError | None = None

    @property
    def logprobs(self) -> list[TokenLogprob]:
        return [token for chunk in self.chunks for token in chunk.logprobs]

    @property
    def counts(self) -> Done:
        assert self.done is not None, self.error
        return self.done

    def take(self, event: object) -> None:
        assert self.done is None and self.error is None, "nothing comes after the end"
        if isinstance(event, TextChunk):
            assert event.text or event.logprobs
            self.chunks.append(event)
            self.text += event.text
        elif isinstance(event, Done):
            self.done = event
        else:
            assert isinstance(event, PunaError)
            self.error = event


@contextmanager
def loaded(path: Path, backend: str = "ggml", **options: Any) -> Iterator[LoadedModel]:
    """A model with an F32 cache, unless the options say otherwise."""
    given = {"num_threads": 1, "kv_cache_type": "f32", **options}
    with load_model(path, LoadOptions(**given), backend=backend) as model:
        yield model


def crowded(model: LoadedModel, limit: int) -> Engine:
    """An engine that lets more requests in than the cache was made for."""
    constrain = model._constrained
    return Engine(
        model.evaluator,
        model.tokenizer,
        constrain,
        num_ctx=model.num_ctx,
        num_batch=model.num_batch,
        limit=limit,
    )


def request(prompt: list[int], num_predict: int = 20, **options: Any) -> GenerateRequest:
    return GenerateRequest(prompt, **{"sampling": GREEDY, "num_predict": num_predict, **options})


def step(engine: Engine, answers: Mapping[int, Answer]) -> None:
    for id, event in engine.step().events:
        answers[id].take(event)


def finish(engine: Engine, answers: Mapping[int, Answer]) -> None:
    """Steps until nothing is left to do, and checks the books."""
    for _ in range(100_000):
        if engine.idle:
            engine.check()
            return
        step(engine, answers)
    raise AssertionError("the engine does not come to an end")


def run(engine: Engine, *requests: GenerateRequest) -> list[Answer]:
    """The answers to requests that come all at once."""
    answers = {id: Answer() for id in range(len(requests))}
    for id, wanted in enumerate(requests):
        engine.submit(id, wanted)
    finish(engine, answers)
    return list(answers.values())


def alone(model: LoadedModel, wanted: GenerateRequest) -> tuple[str, list[int]]:
    """The answer without an engine: one token at a time, in a sequence that the engine does not use."""
    evaluator, tokenizer = model.evaluator, model.tokenizer
    sampler = Sampler(wanted.sampling, tokenizer.vocab_size, wanted.prompt)
    logits = np.empty((0, 0), np.float32)
    for start in range(0, len(wanted.prompt), model.num_batch):
        logits = evaluator.logits(Batch.of(wanted.prompt[start : start + model.num_batch], start, _APART))
    tokens: list[int] = []
    for position in range(len(wanted.prompt), model.num_ctx):
        token = sampler.sample(logits[-1]).token
        if len(tokens) == wanted.num_predict or token in tokenizer.end_ids:
            break
        tokens.append(token)
        logits = evaluator.logits(Batch.of([token], position, _APART))
    evaluator.cache.remove(_APART, 0)
    return tokenizer.decode(tokens), tokens
