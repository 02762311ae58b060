"""Driving an engine, and the plainest way to the same answers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tests.tiny_llama import EOS

from puna.engine.evaluator import Batch
from puna.engine.events import Done, PromptLogprobs, TextChunk, TokenLogprob
from puna.engine.load import LoadedModel, load_model
from puna.engine.loop import Engine
from puna.engine.options import LoadOptions
from puna.engine.request import GenerateRequest
from puna.errors import PunaError
from puna.sampling.parameters import SamplingParameters

# Random weights repeat themselves for ever without the penalty, or end at any time.
VARIED: dict[str, Any] = {
    "temperature": 0.0,
    "frequency_penalty": 0.7,
    "repeat_last_n": -1,
    "logit_bias": {EOS: -1000.0},
}
# By how little two tokens may differ that change places. The order of a sum depends on the batch that it is
# part of, and ggml looks GELU up in a table of half precision, where a last bit can make 0.002 in logits.
MARGINS = {"llama": 1e-4, "gemma": 2e-2, "bpe": 1e-4, "lfm2": 1e-4}
_APART = 63
GREEDY = SamplingParameters(**VARIED)


@dataclass
class Answer:
    """What came of one request."""

    text: str = ""
    chunks: list[TextChunk] = field(default_factory=list)
    done: Done | None = None
    error: PunaError | None = None
    prompt: PromptLogprobs | None = None

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
        elif isinstance(event, PromptLogprobs):
            assert self.prompt is None and not self.chunks
            self.prompt = event
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


class Alone(NamedTuple):
    """An answer without an engine.

    Attributes:
        margins: for each token by how much it was ahead of the second.
    """

    text: str
    tokens: list[int]
    margins: list[float]

    def agrees(self, tokens: list[int], margin: float) -> bool:
        """Whether these are the tokens, up to the first that was ahead by less than the margin."""
        pairs = enumerate(zip(tokens, self.tokens, strict=False))
        other = next((index for index, (found, mine) in pairs if found != mine), None)
        return tokens == self.tokens if other is None else self.margins[other] < margin


def alone(model: LoadedModel, wanted: GenerateRequest) -> Alone:
    """The answer to a request of `VARIED` sampling, one token at a time in a sequence of its own."""
    evaluator, prompt = model.evaluator, wanted.prompt
    logits = np.empty((0, 0), np.float32)
    for start in range(0, len(prompt), model.num_batch):
        logits = evaluator.evaluate(Batch.of(prompt[start : start + model.num_batch], start, _APART))
    penalties = 0.7 * np.bincount(prompt, minlength=model.tokenizer.vocab_size)
    penalties[EOS] += 1000
    tokens: list[int] = []
    margins: list[float] = []
    most = model.num_ctx - len(prompt)
    for position in range(len(prompt), len(prompt) + min(most, wanted.num_predict)):
        scores = logits[-1] - penalties
        tokens.append(int(scores.argmax()))
        second, best = np.partition(scores, -2)[-2:]
        margins.append(float(best - second))
        penalties[tokens[-1]] += 0.7
        logits = evaluator.evaluate(Batch.of([tokens[-1]], position, _APART))
    evaluator.cache.remove(_APART, 0)
    return Alone(model.tokenizer.decode(tokens), tokens, margins)
