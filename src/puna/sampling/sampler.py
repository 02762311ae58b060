"""The sampler: one per sequence, with that sequence's random numbers, history and Mirostat state.

The order is that of llama.cpp's default chain:

    mask → logit_bias → penalties → top_k → typical_p → top_p → min_p → temperature → draw

- The mask comes first, as nothing later may bring back a token that a constraint forbids.
- Bias and penalties move single logits, so everything that ranks or sums probabilities must come after them.
- top_k is the cheapest cut; after it the others look at a few dozen tokens, not at the whole vocabulary.
- Temperature comes last, so that the cuts judge the model's own probabilities: a high temperature then makes
  the choice among the kept tokens more even, but lets no unlikely token in. (Ollama's own engine put it
  before top_p and min_p; its llama.cpp runner did not.)

Each cut sees the probabilities renormalised over what the one before it kept. Mirostat replaces the four cuts
and follows the temperature, as in llama.cpp; unlike there, the penalties still apply to it. A temperature of
0 takes the largest logit after bias and penalties, the lowest id among equal ones, whatever else is set.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from puna.errors import BackendError, InvalidOption
from puna.sampling import logprobs, mirostat
from puna.sampling.parameters import SamplingParameters
from puna.sampling.penalties import TokenWindow, penalised
from puna.sampling.transforms import (
    Floats,
    Positions,
    draw,
    min_p,
    softmax,
    top_k,
    top_p,
    typical,
)

Logits = NDArray[np.float32]
Mask = NDArray[np.bool_]
Selection = Callable[[Floats], Positions]

LEAST_TEMPERATURE = 1e-7
"""Temperatures between 0 and this count as this, as in Ollama, so that no quotient overflows."""

MAX_LOGIT = 1e30
"""No sound model's logit comes near; below it, no option in its range can make one infinite."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen token.

    Attributes:
        token: its id.
        logprob: natural logarithm of its probability under the raw logits; None unless asked for.
        top_logprobs: (id, logprob) of the most likely tokens, most likely first; empty unless asked for.
    """

    token: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


def selections(parameters: SamplingParameters) -> tuple[Selection, ...]:
    """The cuts that the parameters ask for, in their order, without those that keep everything."""
    cuts: tuple[tuple[bool, Selection], ...] = (
        (parameters.top_k > 0, partial(top_k, k=parameters.top_k)),
        (parameters.typical_p < 1, partial(typical, p=parameters.typical_p)),
        (parameters.top_p < 1, partial(top_p, p=parameters.top_p)),
        (parameters.min_p > 0, partial(min_p, p=parameters.min_p)),
    )
    return tuple(cut for wanted, cut in cuts if wanted)


def _random_numbers(seed: int) -> random.Random:
    # Random takes the absolute value of a seed, so 5 and -5 would draw alike.
    return random.Random(None if seed == -1 else seed % 2**64)


def distribution(
    logits: Floats, cuts: Sequence[Selection], temperature: float
) -> tuple[Positions | None, Floats]:
    """What a token is drawn from: the ids that the cuts keep (None: all, in order), their probabilities."""
    ids: Positions | None = None
    for cut in cuts:
        kept = cut(logits)
        logits = logits[kept]
        ids = kept if ids is None else ids[kept]
    return ids, softmax(logits, max(temperature, LEAST_TEMPERATURE))


class Sampler:
    """Chooses the tokens of one sequence.

    Args:
        parameters: the options.
        vocab_size: length of the logits.
        history: token ids of the prompt, which the penalties look back on.

    Raises:
        InvalidOption: logit_bias or history names a token outside the vocabulary.

    The draws of a seed stay the same across versions of Python and NumPy: `random.random` promises so,
    NumPy's generators do not.
    """

    def __init__(self, parameters: SamplingParameters, vocab_size: int, history: Sequence[int] = ()) -> None:
        self._parameters = parameters
        self._vocab_size = vocab_size
        self._random = _random_numbers(parameters.seed)
        self._cuts = selections(parameters)
        self._mu = 2 * parameters.mirostat_tau
        self._bias_ids = np.array(list(parameters.logit_bias), dtype=np.int64)
        self._bias = np.array(list(parameters.logit_bias.values()), dtype=np.float32)
        self._window = self._remembered(history) if parameters.penalises else None
        self._check_ids("logit_bias", self._bias_ids)
        self._scratch: Logits = np.empty(vocab_size, np.float32)
        self._takes_the_best = (
            parameters.temperature == 0 and not parameters.logit_bias and not parameters.penalises
        )

    def sample(self, logits: Logits, mask: Mask | None = None) -> Choice:
        """Chooses the next token and remembers it.

        Args:
            logits: the model's raw output, shape (vocab_size,); it is not changed.
            mask: which tokens are allowed, shape (vocab_size,); all of them if None.

        Raises:
            BackendError: the logits are of the wrong shape, hold NaN or exceed MAX_LOGIT, or leave no token.
            InvalidOption: the mask allows no token.
        """
        if logits.shape != (self._vocab_size,):
            raise BackendError(f"expected logits of shape ({self._vocab_size},), got {logits.shape}")
        token = self._best(logits) if self._takes_the_best and mask is None else self._draw(logits, mask)
        if self._window is not None:
            self._window.append(token)
        if not self._parameters.logprobs:
            return Choice(token)
        return Choice(token, *logprobs.report(logits, token, self._parameters.top_logprobs))

    def accept(self, token: int) -> None:
        """Remembers a token that was not sampled but had to follow."""
        if self._window is not None:
            self._window.append(token)

    def _best(self, logits: Logits) -> int:
        # The vector is large, and read once only; NaN would be the best.
        token = int(logits.argmax())
        _check(logits, logits[token])
        return token

    def _draw(self, logits: Logits, mask: Mask | None) -> int:
        _check(logits, logits.max())
        with np.errstate(over="ignore"):  # what lies further than a float reaches is -inf: impossible
            return self._choose(self._adjusted(logits, mask))

    def _adjusted(self, logits: Logits, mask: Mask | None) -> Logits:
        """The logits after mask, bias and penalties, in the scratch buffer where they differ."""
        if mask is not None:
            logits = self._masked(logits, mask)
        if not self._bias_ids.size and self._window is None:
            return logits
        adjusted = self._scratch
        if logits is not adjusted:
            np.copyto(adjusted, logits)
        adjusted[self._bias_ids] += self._bias
        if self._window is not None:
            ids = self._window.ids
            adjusted[ids] = penalised(adjusted[ids], self._window.counts, self._parameters)
        return adjusted

    def _masked(self, logits: Logits, mask: Mask) -> Logits:
        """The allowed logits, in the scratch buffer; the others are -inf.

        Masks allow few tokens or nearly all: whichever part is smaller is moved one by one.
        """
        allowed = np.count_nonzero(mask)
        if not allowed:
            raise InvalidOption(
                "the constraint on the output allows no token of this model's vocabulary here"
            )
        masked = self._scratch
        if 2 * allowed < mask.size:
            ids = np.flatnonzero(mask)
            masked.fill(-np.inf)
            masked[ids] = logits[ids]
        else:
            np.copyto(masked, logits)
            masked[np.flatnonzero(~mask)] = -np.inf
        if masked.max() == -np.inf:
            raise BackendError("the model's logits are -inf for every token that the constraint allows")
        return masked

    def _choose(self, logits: Logits) -> int:
        if self._parameters.temperature == 0:
            return int(logits.argmax())
        if self._parameters.mirostat:
            return self._choose_by_mirostat(logits)
        ids, probabilities = distribution(logits, self._cuts, self._parameters.temperature)
        position = draw(probabilities, self._random.random())
        return position if ids is None else int(ids[position])

    def _choose_by_mirostat(self, logits: Logits) -> int:
        parameters = self._parameters
        select = mirostat.select_v1 if parameters.mirostat == 1 else mirostat.select_v2
        tempered = logits / np.float32(max(parameters.temperature, LEAST_TEMPERATURE))
        kept = select(tempered, self._mu)
        probabilities = softmax(tempered[kept])
        position = draw(probabilities, self._random.random())
        self._mu = mirostat.updated(
            self._mu, probabilities[position], parameters.mirostat_tau, parameters.mirostat_eta
        )
        return int(kept[position])

    def _remembered(self, history: Sequence[int]) -> TokenWindow:
        last = self._parameters.repeat_last_n
        window = TokenWindow(None if last == -1 else last, history)
        self._check_ids("the history", window.ids)
        return window

    def _check_ids(self, where: str, ids: NDArray[np.int64]) -> None:
        outside = ids[(ids < 0) | (ids >= self._vocab_size)]
        if outside.size:
            raise InvalidOption(
                f"{where} names token {outside[0]}, but this model's tokens are 0 to {self._vocab_size - 1}"
            )


def _check(logits: Logits, peak: np.float32) -> None:
    """Raises BackendError unless the largest logit is one that a sound model may have."""
    if -np.inf < peak < MAX_LOGIT:
        return
    if peak == -np.inf:
        raise BackendError("the model's logits are all -inf, so there is no token to choose")
    position = int(np.flatnonzero(~(logits < MAX_LOGIT))[0])
    raise BackendError(
        f"the model's logit of token {position} is {logits[position]:g}: the model file is damaged or "
        "the computation overflowed; verify the file, or try an f16 cache without flash attention"
    )
