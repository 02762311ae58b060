"""What a generation yields; plain data, shared with parts that never compute."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TextChunk:
    """The next piece of the answer: whole characters, never part of a stop string."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The end of the answer.

    Attributes:
        reason: "stop" at an end token or stop string, "length" when num_predict or the context is used up.
        prompt_tokens: tokens of the prompt.
        prompt_seconds: time to evaluate them.
        generated_tokens: tokens generated, the end token not counted.
        generation_seconds: time to generate them.
        cached_tokens: tokens of the prompt that were in the cache already, so were not evaluated.
    """

    reason: Literal["stop", "length"]
    prompt_tokens: int
    prompt_seconds: float
    generated_tokens: int
    generation_seconds: float
    cached_tokens: int = 0


Event = TextChunk | Done
