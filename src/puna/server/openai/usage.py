"""What answers have in common on the wire: ids, times, figures, probabilities."""

import secrets
import time
from collections.abc import Sequence
from typing import NotRequired, TypedDict

from puna.engine.events import TokenLogprob
from puna.services.conversation import Finished

_FINGERPRINT = 10


class CachedDetails(TypedDict):
    """Of the prompt's tokens."""

    cached_tokens: int


class ReasoningDetails(TypedDict):
    """Of the answer's tokens."""

    reasoning_tokens: int


class UsageDocument(TypedDict):
    """The tokens of an answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedDetails
    completion_tokens_details: ReasoningDetails
    dropped_tokens: NotRequired[int]


class PlainLogprob(TypedDict):
    """A token and its log-probability."""

    token: str
    logprob: float
    bytes: list[int]


class LogprobDocument(PlainLogprob):
    """A token with its alternatives."""

    top_logprobs: list[PlainLogprob]


def new_id(prefix: str) -> str:
    """An id that nobody can guess."""
    return prefix + secrets.token_hex(12)


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


def fingerprint(digest: str) -> str:
    """What a model's answers have in common: its digest's beginning."""
    return f"fp_{digest[:_FINGERPRINT] or 'puna'}"


def usage(prompts: Sequence[Finished], answers: Sequence[Finished]) -> UsageDocument:
    """The tokens of several answers together.

    Args:
        prompts: one answer of each prompt, which is counted once.
        answers: all.
    """
    prompt = sum(one.counts.prompt_tokens for one in prompts)
    generated = sum(one.counts.generated_tokens for one in answers)
    dropped = sum(one.dropped_tokens for one in prompts) + sum(one.counts.shifted_tokens for one in answers)
    found: UsageDocument = {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": sum(one.counts.cached_tokens for one in prompts)},
        "completion_tokens_details": {"reasoning_tokens": sum(one.thinking_tokens for one in answers)},
    }
    if dropped:
        found["dropped_tokens"] = dropped
    return found


def token_text(piece: bytes) -> str:
    """A token as text; what is no whole character shows as U+FFFD."""
    return piece.decode("utf-8", "replace")


def logprob_document(token: TokenLogprob) -> LogprobDocument:
    """A token's log-probability and those of its alternatives, as the chat and responses APIs have it."""
    return {**_plain(token), "top_logprobs": [_plain(other) for other in token.top]}


def _plain(token: TokenLogprob) -> PlainLogprob:
    return {"token": token_text(token.bytes), "logprob": token.logprob, "bytes": list(token.bytes)}
