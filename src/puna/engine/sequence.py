"""One request on its way: its tokens, how many of them the cache has, and what becomes of the text."""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from typing import Literal

from puna.engine.choose import Chooser
from puna.engine.events import Done
from puna.engine.pictures import Placed, groups
from puna.engine.request import AdapterUse, GenerateRequest
from puna.engine.scores import AT_ONCE, PromptScores
from puna.engine.speculation.drafter import Drafter
from puna.engine.text import Transcript
from puna.errors import ContextLengthExceeded

Reason = Literal["stop", "length", "cancelled"]
NOWHERE = -1


@dataclass(slots=True)
class Clock:
    """When things happened, in seconds of the monotonic clock; 0 is not yet."""

    admitted: float = 0.0
    prompt_done: float = 0.0


@dataclass(slots=True, eq=False)
class Sequence:
    """A request and how far it has come.

    Whatever it waits for, a prompt, the token chosen last, or all of it again after it had to give up its
    cells, are the tokens behind `held`.

    Attributes:
        id: the caller's.
        order: counts requests in the order they came.
        tokens: the prompt and what was chosen, without what a shift has dropped.
        prompt_tokens: how many the prompt has.
        limit: most tokens to generate.
        keep: how many tokens a shift leaves at the beginning.
        number: in the cache; NOWHERE while it waits.
        held: how many of the tokens, from the first on, the cache has.
        turned: what the cache has behind the first `keep` tokens was computed when others stood before it.
        prefilling: what it waits for is a prompt, or its text again.
        generated: tokens chosen, the end token not counted.
        cached: tokens of the prompt that the cache had already.
        shifted: tokens dropped from the context.
        scores: what is to be told of the prompt; None where nothing is, or all has been.
        pictures: those of the prompt.
        drafter: what drafts tokens that may come next; None where nothing is drafted.
        drafted: tokens that were drafted and evaluated.
        accepted: how many of these were chosen, so that the logits behind them were used.
        adapters: what it is computed with, in the order of `puna.engine.adapters.ordered`.
    """

    id: int
    order: int
    request: GenerateRequest
    tokens: array[int]
    prompt_tokens: int
    limit: int
    keep: int
    chooser: Chooser
    transcript: Transcript
    number: int = NOWHERE
    held: int = 0
    turned: bool = False
    prefilling: bool = True
    generated: int = 0
    cached: int = 0
    shifted: int = 0
    scores: PromptScores | None = None
    pictures: tuple[Placed, ...] = ()
    drafter: Drafter | None = None
    drafted: int = 0
    accepted: int = 0
    adapters: tuple[AdapterUse, ...] = ()
    clock: Clock = field(default_factory=Clock)

    @property
    def pending(self) -> int:
        """Tokens that are still to be evaluated."""
        return len(self.tokens) - self.held

    @property
    def ready(self) -> int:
        """How many of these can be evaluated together: up to the next pictures, which hide earlier ones."""
        if self.scores is not None:
            return min(self.pending, AT_ONCE)
        if not self.pictures:
            return self.pending
        begins = (group[0].begin for group in groups(self.pictures))
        return next((begin for begin in begins if begin > self.held), len(self.tokens)) - self.held

    @property
    def undivided(self) -> int:
        """How many of these a picture takes that comes first among them; it is evaluated as a whole."""
        return next((one.count for one in self.pictures if one.whole and one.begin == self.held), 0)

    @property
    def due(self) -> list[Placed]:
        """The pictures among these, in whole or in part, which have to be shown before."""
        return [one for one in self.pictures if self.held < one.end and one.begin < self.held + self.ready]

    @property
    def scope(self) -> tuple[str, tuple[AdapterUse, ...]]:
        """With whom it shares what the cache has."""
        return self.request.scope, self.adapters

    @property
    def room(self) -> int:
        """How many more tokens may be generated."""
        return self.limit - self.generated

    @property
    def reusable(self) -> int:
        """How many tokens the cache has as any sequence that begins with them would have them."""
        return min(self.held, self.keep) if self.turned else self.held

    def place(self, number: int, held: int, now: float) -> None:
        """Gives it a number in the cache, which has `held` of its tokens there."""
        self.number, self.held, self.prefilling = number, held, True
        if not self.clock.prompt_done:
            self.cached = held
        if not self.clock.admitted:
            self.clock.admitted = now

    def displace(self) -> None:
        """Takes it out of the cache; all is to be evaluated again."""
        self.number = NOWHERE
        self.cut(0)

    def cut(self, held: int) -> None:
        """Notes that the cache has no more than the first `held` tokens, at most `keep`."""
        self.held, self.turned, self.prefilling = held, False, True

    def advance(self, count: int, now: float) -> bool:
        """Notes that the cache has `count` more tokens; returns whether it has all."""
        self.held += count
        if self.pending:
            return False
        self.prefilling = False
        if not self.clock.prompt_done:
            self.clock.prompt_done = now
        return True

    def done(self, reason: Reason, now: float) -> Done:
        """How it ended."""
        admitted, prompt_done = self.clock.admitted, self.clock.prompt_done
        return Done(
            reason,
            self.prompt_tokens,
            (prompt_done or now) - admitted if admitted else 0.0,
            self.generated,
            now - prompt_done if prompt_done else 0.0,
            self.cached,
            self.shifted,
            self.transcript.stop_text,
            self.drafted,
            self.accepted,
        )


def fitted_prompt(request: GenerateRequest, prompt: array[int], num_ctx: int) -> tuple[array[int], int]:
    """The prompt as it fits the context, and how many tokens it lost.

    With `shift`, one that is too long loses its middle: what a shift would keep remains, and of the end so
    much that half of the rest is free.

    Args:
        prompt: the request's, with the tokens of its pictures.

    Raises:
        ContextLengthExceeded: it is too long, and the request does not let tokens go, or asks about each.
    """
    if len(prompt) <= num_ctx:
        return prompt, 0
    if not shifts(request) or request.prompt_logprobs:
        raise ContextLengthExceeded(len(prompt), num_ctx)
    keep = kept(request.num_keep, len(prompt), num_ctx)
    end = num_ctx - keep - (num_ctx - keep) // 2
    return prompt[:keep] + prompt[-end:], len(prompt) - keep - end


def shifts(request: GenerateRequest) -> bool:
    """Whether old tokens may go: never among pictures, which would go with them."""
    return request.shift and not request.images


def kept(num_keep: int, prompt_tokens: int, num_ctx: int) -> int:
    """How many tokens at the beginning stay when the context shifts."""
    wanted = prompt_tokens if num_keep < 0 else min(num_keep, prompt_tokens)
    return min(wanted, num_ctx - 1)


def shift_length(tokens: int, keep: int, num_ctx: int) -> int:
    """How many tokens behind the first `keep` go, so that about half of the room there is free."""
    return max((num_ctx - keep) // 2, tokens - num_ctx, 1)


def without(tokens: array[int], begin: int, count: int) -> array[int]:
    """The tokens but for `count` of them from `begin` on."""
    return tokens[:begin] + tokens[begin + count :]


def outside(tokens: Tokens[int], vocabulary: int) -> int | None:
    """The first id that is none of the vocabulary."""
    if min(tokens) >= 0 and max(tokens) < vocabulary:
        return None
    return next(token for token in tokens if not 0 <= token < vocabulary)
