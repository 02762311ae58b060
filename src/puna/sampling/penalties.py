"""Penalties on tokens that the text already holds.

The repeat penalty is Keskar et al.'s (CTRL, arXiv:1909.05858) with the customary correction that a negative
logit is multiplied; presence and frequency penalties are OpenAI's. All three as in llama.cpp.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from puna.sampling.parameters import SamplingParameters

Ids = NDArray[np.int64]


class TokenWindow:
    """How often each token occurs among the latest `size` ones (all of them if `size` is None).

    Appending costs the same however long the window is: ids and counts lie in two arrays whose used part is
    handed out as views, and a token that leaves the window gives its place to the last one.
    """

    def __init__(self, size: int | None, history: Sequence[int] = ()) -> None:
        latest = history if size is None else history[max(len(history) - size, 0) :]
        ids, counts = np.unique(np.array(latest, dtype=np.int64), return_counts=True)
        self._ids, self._counts = ids, counts.astype(np.int64)
        self._used = ids.size
        self._place = {token: i for i, token in enumerate(ids.tolist())}
        self._size = size
        self._latest = deque(() if size is None else latest)

    @property
    def ids(self) -> Ids:
        """The different tokens, in no order; valid until the next `append`."""
        return self._ids[: self._used]

    @property
    def counts(self) -> Ids:
        """How often each of `ids` occurs, at least once."""
        return self._counts[: self._used]

    def append(self, token: int) -> None:
        """Adds the latest token; the oldest one leaves if the window was full."""
        place = self._place.setdefault(token, self._used)
        if place == self._used:
            self._open(token)
        self._counts[place] += 1
        if self._size is None:
            return
        self._latest.append(token)
        if len(self._latest) > self._size:
            self._forget(self._latest.popleft())

    def _open(self, token: int) -> None:
        if self._used == self._ids.size:
            room = max(self._used, 64)
            self._ids = np.concatenate((self._ids, np.empty(room, np.int64)))
            self._counts = np.concatenate((self._counts, np.empty(room, np.int64)))
        self._ids[self._used] = token
        self._counts[self._used] = 0
        self._used += 1

    def _forget(self, token: int) -> None:
        place = self._place[token]
        self._counts[place] -= 1
        if self._counts[place] > 0:
            return
        del self._place[token]
        self._used -= 1
        if place != self._used:
            last = int(self._ids[self._used])
            self._ids[place], self._counts[place] = last, self._counts[self._used]
            self._place[last] = place


def penalised(
    logits: NDArray[np.float32], counts: Ids, parameters: SamplingParameters
) -> NDArray[np.float32]:
    """The logits of tokens that occurred `counts` times, each at least once, after the three penalties."""
    repeat = parameters.repeat_penalty
    scaled = np.where(logits > 0, logits / repeat, logits * repeat)
    return scaled - (counts * parameters.frequency_penalty + parameters.presence_penalty).astype(np.float32)
