"""Generation for one sequence: evaluate what is new of the prompt, then sample token by token."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from puna.engine.choose import Chooser
from puna.engine.evaluator import Batch, Evaluator
from puna.engine.events import Done, Event, TextChunk
from puna.engine.text import TextStream
from puna.errors import ContextLengthExceeded, InvalidOption
from puna.ml.array import Floats
from puna.sampling.constraints import Constraint
from puna.sampling.sampler import Sampler
from puna.tokenizer import Tokenizer

_SEQUENCE = 0


@dataclass(slots=True)
class Conversation:
    """What lies in the cache for the one sequence, so that a next prompt evaluates only what is new."""

    tokens: list[int] = field(default_factory=list)


def evaluate_prompt(
    evaluator: Evaluator, conversation: Conversation, prompt: Sequence[int], num_batch: int
) -> tuple[Floats, int]:
    """Brings the cache to hold exactly `prompt`.

    Returns:
        The last token's logits, F32 (vocabulary,), and how many tokens the cache held already.
    """
    kept = _reuse(evaluator, conversation, prompt)
    return append(evaluator, conversation, prompt[kept:], num_batch), kept


def append(evaluator: Evaluator, conversation: Conversation, tokens: Sequence[int], num_batch: int) -> Floats:
    """Appends tokens to the sequence in batches; returns the last one's logits, F32 (vocabulary,)."""
    logits = np.empty((0, 0), np.float32)
    for start in range(0, len(tokens), num_batch):
        logits = extend(evaluator, conversation, tokens[start : start + num_batch])
    return logits


def extend(evaluator: Evaluator, conversation: Conversation, tokens: Sequence[int]) -> Floats:
    """Appends tokens to the sequence; returns the last one's logits, F32 (vocabulary,).

    If the computation is interrupted, the cache is left as it was before.
    """
    start = len(conversation.tokens)
    try:
        logits = evaluator.logits(Batch.of(tokens, start, _SEQUENCE))
    except BaseException:
        evaluator.cache.remove(_SEQUENCE, start, None)
        raise
    conversation.tokens.extend(tokens)
    last: Floats = logits[-1]
    return last


def _reuse(evaluator: Evaluator, conversation: Conversation, prompt: Sequence[int]) -> int:
    """Cuts the cache back to what it has in common with the prompt; at least the last token is left to do."""
    common = _common_prefix(conversation.tokens, prompt[:-1])
    if not evaluator.cache.can_resume(_SEQUENCE, common):
        common = 0
    evaluator.cache.remove(_SEQUENCE, common, None)
    del conversation.tokens[common:]
    return common


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


@dataclass(slots=True)
class _Clock:
    """Times of one generation, in seconds of the monotonic clock."""

    start: float
    prompt_done: float = 0.0


def _never() -> bool:
    return False


def generate(
    evaluator: Evaluator,
    conversation: Conversation,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    sampler: Sampler,
    constraint: Constraint | None,
    *,
    num_ctx: int,
    num_batch: int,
    num_predict: int,
    stop: Sequence[str],
    shown: Collection[int] = (),
    halted: Callable[[], bool] = _never,
) -> Iterator[Event]:
    """Yields the answer to `prompt` piece by piece, and at last `Done`.

    Args:
        constraint: what the answer is kept to; it ends where that is complete.
        num_predict: most tokens to generate; below 0 until the context is full.
        shown: ids of control tokens that the text shows; others are left out.
        halted: asked after each piece whether it was the last that is wanted; then the answer has stopped.

    Raises:
        InvalidOption: the prompt is empty, or the constraint cannot go on.
        ContextLengthExceeded: the prompt does not fit the context.
    """
    if not prompt:
        raise InvalidOption("the prompt is empty: there is nothing to continue")
    if len(prompt) > num_ctx:
        raise ContextLengthExceeded(len(prompt), num_ctx)
    clock = _Clock(time.perf_counter())
    logits, cached = evaluate_prompt(evaluator, conversation, prompt, num_batch)
    clock.prompt_done = time.perf_counter()
    text = TextStream(tokenizer.decoder(shown=shown), stop)
    room = num_ctx - len(prompt)
    limit = room if num_predict < 0 else min(num_predict, room)
    count, reason = 0, "length"
    with Chooser(sampler, constraint) as chooser:
        while count < limit:
            tokens = chooser.choose(logits, limit - count)
            if tokens[0] in tokenizer.end_ids:
                reason = "stop"
                break
            for token in tokens:
                count += 1
                if piece := text.feed(token):
                    yield TextChunk(piece)
                if text.stopped or halted():
                    break
            if text.stopped or halted() or chooser.complete:
                reason = "stop"
                break
            if count < limit:
                chooser.prepare()
                logits = append(evaluator, conversation, tokens, num_batch)
    if piece := text.flush():
        yield TextChunk(piece)
    yield _done(reason, len(prompt), cached, count, clock)


def _done(reason: str, prompt_tokens: int, cached: int, count: int, clock: _Clock) -> Done:
    kind: Literal["stop", "length"] = "stop" if reason == "stop" else "length"
    prompt_seconds = clock.prompt_done - clock.start
    generation_seconds = time.perf_counter() - clock.prompt_done
    return Done(kind, prompt_tokens, prompt_seconds, count, generation_seconds, cached)
