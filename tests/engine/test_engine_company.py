"""Requests that come and go at random, in a cache that is too small: each gets the answer it gets alone."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine.driving import MARGINS, VARIED, Answer, alone, crowded, loaded, request, step
from tests.schema_corpus import trained_vocabulary
from tests.tiny_gemma import write_tiny_gemma
from tests.tiny_llama import BOS, write_tiny_llama

from puna.engine.load import LoadedModel
from puna.engine.loop import Engine
from puna.engine.request import GenerateRequest
from puna.errors import Interrupted
from puna.sampling.grammar import Grammar
from puna.sampling.parameters import SamplingParameters

WRITERS: dict[str, Callable[[Path], Path]] = {
    "llama": write_tiny_llama,
    "gemma": write_tiny_gemma,
    "bpe": lambda path: write_tiny_llama(path, vocabulary=trained_vocabulary()),
}
NUM_CTX = 96


@dataclass
class Company:
    """An engine, who is with it, and what has been answered.

    Attributes:
        quiet: the same model with a cache of its own, where each request is alone.
        cancelled: requests that were ended early.
    """

    model: LoadedModel
    engine: Engine
    quiet: LoadedModel
    random: np.random.Generator
    requests: dict[int, GenerateRequest] = field(default_factory=dict)
    answers: dict[int, Answer] = field(default_factory=dict)
    cancelled: set[int] = field(default_factory=set)

    @property
    def present(self) -> list[int]:
        return [id for id, answer in self.answers.items() if answer.done is None and answer.error is None]

    def act(self) -> None:
        chance = self.random.random()
        if chance < 0.25:
            self.join()
        elif chance < 0.29 and self.present:
            id = int(self.random.choice(self.present))
            self.engine.cancel(id)
            self.cancelled.add(id)
        elif chance < 0.32:
            self.model.backend.interrupt()
            try:
                step(self.engine, self.answers)
            except Interrupted:
                pass
            finally:
                self.model.backend.resume()
        elif chance < 0.325:
            self.engine.forget()
        else:
            step(self.engine, self.answers)
        self.engine.check()

    def join(self) -> None:
        id = len(self.requests)
        wanted = self.some_request()
        self.requests[id], self.answers[id] = wanted, Answer()
        self.engine.submit(id, wanted)

    def some_request(self) -> GenerateRequest:
        random = self.random
        if self.requests and random.random() < 0.6:
            # As in a next turn, or another one of the same.
            earlier = self.requests[int(random.integers(len(self.requests)))].prompt
            prompt = [*earlier[: random.integers(1, len(earlier) + 1)], *self.tokens(20)]
        else:
            prompt = [BOS, *self.tokens(60)]
        options: dict[str, Any] = {"scope": str(random.choice(["", "", "a"]))}
        if random.random() < 0.2:
            options["grammar"] = Grammar.choice(["abcdefghijklmnopqrstuvwxyz", "a small world", "b"])
            return request(prompt[:NUM_CTX], int(random.integers(0, 50)), **options)
        options["sampling"] = SamplingParameters(**VARIED, logprobs=True)
        if random.random() < 0.2:
            options |= {"shift": True, "num_keep": int(random.integers(-1, 30))}
        return request(prompt[:NUM_CTX], int(random.integers(0, 50)), **options)

    def tokens(self, most: int) -> list[int]:
        count = int(self.random.integers(0, most))
        return [int(token) for token in self.random.integers(2, self.model.tokenizer.vocab_size, count)]

    def verify(self, margin: float) -> None:
        """Lets all come to an end, and compares each answer with the one that it gets alone."""
        while not self.engine.idle:
            step(self.engine, self.answers)
            self.engine.check()
        self.engine.forget()
        self.engine.check()
        assert self.model.evaluator.cache.taken == 0
        for id, answer in self.answers.items():
            wanted, tokens = self.requests[id], [token.id for token in answer.logprobs]
            if wanted.grammar is not None or answer.counts.shifted_tokens:
                continue
            expected = alone(self.quiet, wanted)
            if id in self.cancelled:
                assert answer.counts.generated_tokens >= len(tokens)
                expected = expected._replace(tokens=expected.tokens[: len(tokens)])
            else:
                assert answer.counts.generated_tokens == len(tokens)
                assert answer.text == self.model.tokenizer.decode(tokens)
            # One that may shift can have a token more before it must.
            assert expected.agrees(tokens[: len(expected.tokens)] if wanted.shift else tokens, margin), id


def keep_company(path: Path, name: str, seed: int, actions: int) -> int:
    """Plays, and returns how many requests there were."""
    random = np.random.default_rng(seed)
    parallel, limit = int(random.integers(1, 5)), int(random.integers(1, 20))
    shape: dict[str, Any] = {"num_ctx": NUM_CTX, "num_batch": int(random.choice([5, 16, 64]))}
    with loaded(path, num_parallel=parallel, **shape) as model, loaded(path, **shape) as quiet:
        company = Company(model, crowded(model, limit), quiet, random)
        for _ in range(actions):
            company.act()
        company.verify(MARGINS[name])
        return len(company.requests)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("seed", range(2))
def test_company_changes_no_answer(name: str, seed: int, tmp_path: Path) -> None:
    assert keep_company(WRITERS[name](tmp_path / "model.gguf"), name, seed, 150) > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_long_company_changes_no_answer(name: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / "model.gguf")
    seed, end = 100, time.monotonic() + 200
    while time.monotonic() < end:
        keep_company(path, name, seed, 600)
        seed += 1
