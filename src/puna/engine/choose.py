"""Choosing the tokens of one answer, kept to a constraint if there is one."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from puna.engine.thinking import ThinkingLimit
from puna.ml.array import Floats
from puna.sampling.constraints import Constraint, Mask
from puna.sampling.sampler import Choice, Sampler


class Chooser:
    """The sampler and the constraint of one answer; a context manager.

    Attributes:
        complete: whether the constraint lets nothing follow.

    The mask of a step depends only on the tokens before it, so a thread computes it while the model computes
    the logits: computing holds no interpreter lock.
    """

    def __init__(
        self, sampler: Sampler, constraint: Constraint | None, limit: ThinkingLimit | None = None
    ) -> None:
        self._sampler = sampler
        self._constraint = constraint
        self._limit = limit
        self._worker = ThreadPoolExecutor(1, "mask") if constraint is not None else None
        self._mask: Future[Mask] | None = None
        self.complete = False

    def prepare(self) -> None:
        """Begins to compute the next mask, unless that has begun."""
        if self._worker is not None and self._constraint is not None and self._mask is None:
            self._mask = self._worker.submit(self._constraint.mask)

    def choose(self, logits: Floats, room: int) -> list[Choice]:
        """The sampled token, and those that the constraint makes follow it; or those that end thinking.

        With log-probabilities none follows: each needs the logits before it.

        Args:
            room: how many tokens at most, at least 1.

        Raises:
            InvalidOption: the constraint allows none, or cannot go on.
        """
        if self._limit is None:
            return self._sampled(logits, room)
        if ending := self._limit.ending():
            return self._forced(ending[:room])
        choices = self._sampled(logits, room)
        self._limit.accept([choice.token for choice in choices])
        return choices

    def _forced(self, tokens: list[int]) -> list[Choice]:
        """Tokens that come whatever the logits say."""
        if self._mask is not None:
            self._mask.result()
            self._mask = None
        for token in tokens:
            self._sampler.accept(token)
            if self._constraint is not None:
                self._constraint.advance(token, 0)
        return [*map(Choice, tokens)]

    def _sampled(self, logits: Floats, room: int) -> list[Choice]:
        if self._constraint is None:
            return [self._sampler.sample(logits)]
        mask = self._constraint.mask() if self._mask is None else self._mask.result()
        self._mask = None
        choice = self._sampler.sample(logits, mask)
        forced = self._constraint.advance(choice.token, room - 1 if choice.logprob is None else 0)
        self.complete = self._constraint.complete
        for token in forced:
            self._sampler.accept(token)
        return [choice, *map(Choice, forced)]

    def close(self) -> None:
        """Ends its thread. Closing twice is harmless."""
        if self._worker is not None:
            self._worker.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
