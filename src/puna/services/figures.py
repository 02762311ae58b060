"""Moments and durations, and the figures at an answer's end, as Ollama's API tells them."""

import time
from datetime import UTC, datetime
from functools import lru_cache

from puna.services.conversation import Finished


def figures(finished: Finished) -> dict[str, int]:
    """What is told of an answer at its end, by the API's names; durations in nanoseconds."""
    counts = finished.counts
    return {
        "total_duration": nanoseconds(finished.total_seconds),
        "load_duration": nanoseconds(finished.load_seconds),
        "prompt_eval_count": counts.prompt_tokens,
        "prompt_eval_duration": nanoseconds(counts.prompt_seconds),
        "eval_count": counts.generated_tokens,
        "eval_duration": nanoseconds(counts.generation_seconds),
        "cached_tokens": counts.cached_tokens,
        "draft_count": counts.drafted_tokens,
        "draft_accepted_count": counts.accepted_tokens,
        "dropped_tokens": finished.dropped_tokens + counts.shifted_tokens,
    }


def nanoseconds(seconds: float) -> int:
    """A duration as the API counts it."""
    return round(seconds * 1e9)


def now_text() -> str:
    """This moment in UTC, as RFC 3339 writes it."""
    seconds, rest = divmod(time.time_ns(), 10**9)
    return f"{_second(seconds)}.{rest // 1000:06d}Z"


@lru_cache(1)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
