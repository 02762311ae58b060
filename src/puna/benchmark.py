"""How fast a model runs: prompts of synthetic tokens and generation without sampling, each timed alone.

What is measured is what llama.cpp's `llama-bench` measures: every repetition begins with an empty cache,
fills it to the wanted depth untimed, and then times either one prompt, of which only the last token's logits
are computed, or a number of steps of one token each. Tokens are drawn at random, so no step depends on the
one before, and nothing is sampled. One run that is not counted warms up graphs, caches and threads.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal, Protocol

from puna.errors import InvalidOption

if TYPE_CHECKING:
    from puna.engine.evaluator import Evaluator

Kind = Literal["prompt", "generation"]

_SEED = 20
_NANOSECONDS = 10**9


class Subject(Protocol):
    """What is measured: a model with its cache, which holds a number of sequences from 0 on."""

    def reset(self) -> None:
        """Empties the cache."""

    def evaluate(self, tokens: Sequence[int], sequence: int) -> None:
        """Appends a prompt to a sequence; logits of the last token only."""

    def decode(self, tokens: Sequence[int]) -> None:
        """One step: appends token i to sequence i and computes logits of each."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure.

    Attributes:
        kind: a prompt evaluated at once, or tokens generated one by one.
        tokens: of the prompt, or to generate in each sequence; at least 1.
        depth: tokens that each sequence has in the cache already.
        batch: sequences that generate side by side; 1 for a prompt.
    """

    kind: Kind
    tokens: int
    depth: int = 0
    batch: int = 1

    @property
    def name(self) -> str:
        """As `llama-bench` names it (`pp512`, `tg128 @ d1024`), with the sequences if there are several."""
        short = "pp" if self.kind == "prompt" else "tg"
        several = f" x{self.batch}" if self.batch > 1 else ""
        return f"{short}{self.tokens}{several}" + (f" @ d{self.depth}" if self.depth else "")

    @property
    def context(self) -> int:
        """Tokens that each sequence ends with."""
        return self.depth + self.tokens


@dataclass(frozen=True, slots=True)
class Measurement:
    """A case and how long each of its repetitions took, in nanoseconds."""

    case: Case
    nanoseconds: tuple[int, ...]

    @property
    def rates(self) -> tuple[float, ...]:
        """Tokens per second of each repetition, all sequences together."""
        tokens = self.case.tokens * self.case.batch
        return tuple(tokens * _NANOSECONDS / taken for taken in self.nanoseconds)

    @property
    def mean_rate(self) -> float:
        """Arithmetic mean of the rates."""
        return statistics.fmean(self.rates)

    @property
    def rate_deviation(self) -> float:
        """Sample standard deviation of the rates; 0 for a single repetition."""
        return statistics.stdev(self.rates) if len(self.rates) > 1 else 0.0


def plan_cases(
    prompts: Sequence[int], generations: Sequence[int], depths: Sequence[int], batches: Sequence[int]
) -> tuple[Case, ...]:
    """Every prompt length and generation at every depth; generation also with every number of sequences.

    Lengths of 0 are left out.

    Raises:
        InvalidOption: a negative number, fewer than one sequence, or nothing to measure.
    """
    for name, values, least in (
        ("n-prompt", prompts, 0),
        ("n-gen", generations, 0),
        ("depth", depths, 0),
        ("batch", batches, 1),
    ):
        wrong = next((value for value in values if value < least), None)
        if wrong is not None:
            raise InvalidOption(f"{name} is {wrong}; it must be at least {least}")
    cases = (
        *(Case("prompt", count, depth) for depth, count in product(depths, prompts) if count),
        *(
            Case("generation", count, depth, batch)
            for depth, count, batch in product(depths, generations, batches)
            if count
        ),
    )
    if not cases:
        raise InvalidOption("there is nothing to measure: n-prompt and n-gen are both 0")
    return cases


def measure(
    subject: Subject,
    cases: Sequence[Case],
    repetitions: int,
    vocabulary: int,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Iterator[Measurement]:
    """Runs the cases in order and yields each one's times as soon as it is done.

    Args:
        repetitions: of each case, at least 1, besides the warm-up.
        vocabulary: tokens are drawn from 0 … vocabulary - 1.
        clock: nanoseconds that only grow.
    """
    draw = random.Random(_SEED)
    for case in cases:
        _warm_up(subject, case, vocabulary, draw)
        taken = tuple(_repetition(subject, case, vocabulary, draw, clock) for _ in range(repetitions))
        yield Measurement(case, taken)
    subject.reset()


def _warm_up(subject: Subject, case: Case, vocabulary: int, draw: random.Random) -> None:
    subject.reset()
    if case.kind == "prompt":
        subject.evaluate(_tokens(case.tokens, vocabulary, draw), 0)
    else:
        subject.decode(_tokens(case.batch, vocabulary, draw))


def _repetition(
    subject: Subject, case: Case, vocabulary: int, draw: random.Random, clock: Callable[[], int]
) -> int:
    subject.reset()
    if case.depth:
        for sequence in range(case.batch):
            subject.evaluate(_tokens(case.depth, vocabulary, draw), sequence)
    if case.kind == "prompt":
        prompt = _tokens(case.tokens, vocabulary, draw)
        start = clock()
        subject.evaluate(prompt, 0)
        return clock() - start
    steps = [_tokens(case.batch, vocabulary, draw) for _ in range(case.tokens)]
    start = clock()
    for step in steps:
        subject.decode(step)
    return clock() - start


def _tokens(count: int, vocabulary: int, draw: random.Random) -> list[int]:
    return draw.choices(range(vocabulary), k=count)


class EngineSubject:
    """The engine's evaluator as what is measured."""

    def __init__(self, evaluator: Evaluator, num_batch: int) -> None:
        self._evaluator = evaluator
        self._num_batch = num_batch
        self._lengths: dict[int, int] = {}

    def reset(self) -> None:
        for sequence in self._lengths:
            self._evaluator.cache.remove(sequence, 0)
        self._lengths.clear()

    def evaluate(self, tokens: Sequence[int], sequence: int) -> None:
        from puna.engine.evaluator import Batch

        for start in range(0, len(tokens), self._num_batch):
            part = tokens[start : start + self._num_batch]
            length = self._lengths.get(sequence, 0)
            self._evaluator.evaluate(Batch.of(part, length, sequence))
            self._lengths[sequence] = length + len(part)

    def decode(self, tokens: Sequence[int]) -> None:
        import numpy as np

        from puna.engine.evaluator import Batch

        everyone = np.arange(len(tokens), dtype=np.int32)
        positions = [self._lengths.get(sequence, 0) for sequence in range(len(tokens))]
        batch = Batch(np.asarray(tokens, np.int32), np.asarray(positions, np.int32), everyone, everyone)
        self._evaluator.evaluate(batch)
        self._lengths.update((sequence, length + 1) for sequence, length in enumerate(positions))
