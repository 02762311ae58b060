"""Sampling options under Ollama's names, with Ollama's defaults, checked when they are made.

This module is shared by the server and the compute half: it imports no NumPy.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from reprlib import repr as brief
from typing import Any, Self, TypeVar

from puna.errors import InvalidOption

Number = TypeVar("Number", int, float)

INT32_MAX = 2**31 - 1
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

MAX_TOP_LOGPROBS = 20
"""The most alternatives a token may report, on every API that reports them."""

MAX_BIAS = 1000.0
"""The largest logit bias. Real logits stay far below it, so -1000 bans a token and 1000 forces it."""


@dataclass(frozen=True, slots=True)
class Range:
    """The values an option accepts, both ends included; with `integer`, whole numbers only."""

    low: float
    high: float
    integer: bool

    def __str__(self) -> str:
        low, high = (str(x) if self.integer else f"{x:g}" for x in (self.low, self.high))
        return f"{'a whole number' if self.integer else 'a number'} from {low} to {high}"

    def accepts(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.integer else (int, float)):
            return False
        return self.low <= value <= self.high  # False for NaN


def _option(default: Number, low: Number, high: Number) -> Number:
    accepted = Range(low, high, integer=isinstance(default, int))
    option: Number = field(default=default, metadata={"range": accepted})
    return option


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How the next token is chosen.

    The accepted ranges are wide, but finite: inside them no step of the sampler can overflow.

    Attributes:
        temperature: divides the logits before the draw; 0 takes the most likely token.
        top_k: keep the k most likely tokens; 0 or -1 keeps all.
        top_p: keep the most likely tokens whose probabilities sum to this; 1 keeps all.
        min_p: keep tokens at least this fraction as likely as the most likely one; 0 keeps all.
        typical_p: keep the tokens of most typical surprise whose probabilities sum to this; 1 keeps all.
        repeat_last_n: how many of the latest tokens the penalties look at; 0 none, -1 the whole context.
        repeat_penalty: divides positive and multiplies negative logits of those tokens; 1 is off.
        presence_penalty: subtracted once from the logit of each of those tokens; 0 is off.
        frequency_penalty: subtracted for every occurrence of the token; 0 is off.
        mirostat: 1 or 2 replaces top_k, typical_p, top_p and min_p by that version of Mirostat; 0 is off.
        mirostat_tau: Mirostat's target surprise, in bits per token.
        mirostat_eta: Mirostat's learning rate.
        seed: -1 draws differently every time; any other value makes the draws repeatable.
        logprobs: report the log-probability of each chosen token.
        top_logprobs: with logprobs, also report this many of the most likely tokens.
        logit_bias: token id to a number from -1000 to 1000 that is added to its logit.

    Raises:
        InvalidOption: a value is out of its range, not finite or of the wrong type; the message names the
            option, the value and the accepted range.
    """

    temperature: float = _option(0.8, 0.0, 1e3)
    top_k: int = _option(40, -1, INT32_MAX)
    top_p: float = _option(0.9, 0.0, 1.0)
    min_p: float = _option(0.0, 0.0, 1.0)
    typical_p: float = _option(1.0, 0.0, 1.0)
    repeat_last_n: int = _option(64, -1, INT32_MAX)
    repeat_penalty: float = _option(1.0, 1e-3, 1e3)
    presence_penalty: float = _option(0.0, -1e3, 1e3)
    frequency_penalty: float = _option(0.0, -1e3, 1e3)
    mirostat: int = _option(0, 0, 2)
    mirostat_tau: float = _option(5.0, 0.0, 1e3)
    mirostat_eta: float = _option(0.1, 0.0, 1e3)
    seed: int = _option(-1, INT64_MIN, INT64_MAX)
    logprobs: bool = False
    top_logprobs: int = _option(0, 0, MAX_TOP_LOGPROBS)
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, accepted in RANGES.items():
            value = getattr(self, name)
            if not accepted.accepts(value):
                raise InvalidOption(f"{name} must be {accepted}, not {brief(value)}")
        if not isinstance(self.logprobs, bool):
            raise InvalidOption(f"logprobs must be true or false, not {brief(self.logprobs)}")
        object.__setattr__(self, "logit_bias", _checked_bias(self.logit_bias))

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Parameters from an Ollama `options` object as it stands in a request or a model's params layer.

        Options of other parts of the system are ignored, null means the default, and whole-number options
        take the integer part of a fractional number, as Ollama's do.

        Raises:
            InvalidOption: as the constructor.
        """
        given = {name: options[name] for name in FIELD_NAMES if options.get(name) is not None}
        return cls(**{name: _truncated(name, value) for name, value in given.items()})

    @property
    def penalises(self) -> bool:
        """Whether tokens of the history change the logits at all."""
        neutral = self.repeat_penalty == 1 and self.presence_penalty == 0 and self.frequency_penalty == 0
        return self.repeat_last_n != 0 and not neutral


FIELD_NAMES = tuple(f.name for f in fields(SamplingParameters))
RANGES: Mapping[str, Range] = {
    f.name: f.metadata["range"] for f in fields(SamplingParameters) if "range" in f.metadata
}
_BIAS = Range(-MAX_BIAS, MAX_BIAS, integer=False)
_TOKEN = Range(0, INT32_MAX, integer=True)


def _checked_bias(bias: object) -> dict[int, float]:
    if not isinstance(bias, Mapping):
        raise InvalidOption(f"logit_bias must map token ids to numbers, not {brief(bias)}")
    for token, value in bias.items():
        if not _TOKEN.accepts(token):
            raise InvalidOption(f"a token id in logit_bias must be {_TOKEN}, not {brief(token)}")
        if not _BIAS.accepts(value):
            raise InvalidOption(f"logit_bias of token {token} must be {_BIAS}, not {brief(value)}")
    return dict(bias)


def _truncated(name: str, value: Any) -> Any:
    accepted = RANGES.get(name)
    if accepted is not None and accepted.integer and isinstance(value, float) and math.isfinite(value):
        return int(value)
    return value
