"""What a generation yields; plain data, shared with parts that never compute, and sent between processes."""

from typing import Literal

import msgspec


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token with its log-probability.

    Attributes:
        id: the token's.
        bytes: what it adds to the text, possibly part of a character.
        logprob: natural logarithm of its probability under the raw logits.
        top: the most likely tokens in its place, most likely first; they have no `top` themselves.
    """

    id: int
    bytes: bytes
    logprob: float
    top: "tuple[TokenLogprob, ...]" = ()


class TextChunk(msgspec.Struct, frozen=True, array_like=True, tag="text"):
    """The next piece of the answer: whole characters, never part of a stop string.

    Attributes:
        logprobs: of the tokens that were chosen since the last piece, where they were asked for. Only then
            the text may be empty.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class PromptLogprobs(msgspec.Struct, frozen=True, array_like=True, tag="prompt"):
    """The log-probabilities of the prompt's tokens, where they were asked for; comes before the answer.

    Attributes:
        first: what the prompt's first token stands for; nothing precedes it, so it has no probability.
        tokens: the others.
    """

    first: bytes
    tokens: tuple[TokenLogprob, ...]


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """The end of the answer.

    Attributes:
        reason: "stop" at an end token or stop string, "length" when num_predict or the context is used up,
            "cancelled" when the caller wanted no more.
        prompt_tokens: tokens of the prompt.
        prompt_seconds: time to evaluate them.
        generated_tokens: tokens generated, the end token not counted.
        generation_seconds: time to generate them.
        cached_tokens: tokens of the prompt that were in the cache already, so were not evaluated.
        shifted_tokens: tokens that were dropped from the context to make room for the answer.
        stop_text: the stop string that ended it; empty where none did.
        drafted_tokens: tokens that were drafted and evaluated, see `puna.engine.speculation`.
        accepted_tokens: how many of these are part of the answer.
    """

    reason: Literal["stop", "length", "cancelled"]
    prompt_tokens: int
    prompt_seconds: float
    generated_tokens: int
    generation_seconds: float
    cached_tokens: int = 0
    shifted_tokens: int = 0
    stop_text: str = ""
    drafted_tokens: int = 0
    accepted_tokens: int = 0


Event = TextChunk | PromptLogprobs | Done
