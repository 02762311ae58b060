"""The cache of encoders: there is none, a token sees the tokens of its own text in its own batch."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from puna.errors import InvalidOption
from puna.kvcache.cache import Cache, CacheFull, History, Integers, ShiftRefused
from puna.kvcache.cells import padded
from puna.kvcache.history import minus_infinity
from puna.ml import Backend, Context, DType, Tensor
from puna.ml.backend import CacheConfig
from puna.ml.nn import LayerHistory

Sequences = NDArray[np.int64]


@dataclass(slots=True)
class Started:
    """What the cache and its graphs share: the sequences of the tokens of the batch last started."""

    sequences: Sequences


@dataclass
class BatchHistory(History, LayerHistory):
    """One graph's view: the batch itself.

    Attributes:
        started: the cache's.
        tokens: the most tokens that a batch in this graph has.
        mask: input (tokens padded, tokens), 0 or -inf.
        permuted: see `CacheConfig.permuted_v`.
    """

    started: Started
    tokens: int
    mask: Tensor
    permuted: bool

    def layer(self, index: int) -> "BatchHistory":
        return self

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `puna.ml.nn.LayerHistory`."""
        return key, value.permute(1, 2, 0).contiguous() if self.permuted else value, self.mask

    def fill(self) -> None:
        own = np.full(self.tokens, -1, np.int64)
        own[: self.started.sequences.size] = self.started.sequences
        hidden = own[:, None] != own
        np.multiply(hidden, minus_infinity(self.mask.dtype), out=self._mask_bits[: self.tokens])

    @cached_property
    def _mask_bits(self) -> NDArray[np.unsignedinteger]:
        infinity = minus_infinity(self.mask.dtype)
        bits = self.mask.array().view(infinity.dtype)
        bits[self.tokens :] = infinity
        return bits


class WithinBatch(Cache):
    """Every token sees all tokens of its sequence that are in the same batch; nothing is kept.

    Sequences are told apart by any numbers from 0 on. Positions play no part.
    """

    def init(self, backend: Backend, dtype: DType, max_sequences: int, capacity: int, max_batch: int) -> None:
        if min(max_sequences, capacity, max_batch) < 1:
            raise InvalidOption(f"batches of {max_batch} tokens are not possible; it must be at least 1")
        self._config: CacheConfig = backend.cache_config()
        self._max_batch = max_batch
        self._started = Started(np.empty(0, np.int64))

    def start(self, positions: Integers, sequences: Integers) -> Hashable:
        whose = np.asarray(sequences, np.int64)
        if whose.size > self._max_batch:
            raise CacheFull(f"a batch of {whose.size} tokens does not fit: {self._max_batch} are possible")
        self._started.sequences = whose
        return None

    def trace(self, context: Context, tokens: int, shape: Hashable) -> History:
        rows = padded(tokens, self._config.mask_batch_padding)
        mask = context.input().empty(self._config.mask_dtype, rows, tokens)
        return BatchHistory(self._started, tokens, mask, self._config.permuted_v)

    def worst_case(self) -> Hashable:
        return None

    def remove(self, sequence: int, begin: int, end: int | None = None) -> None:
        if end is not None and end > begin:
            raise ShiftRefused("nothing is kept of a text that was read, so nothing of it can move")

    def copy_prefix(self, source: int, target: int, length: int, *, apart: bool = False) -> None:
        """Nothing is kept, so nothing is shared."""

    def can_resume(self, sequence: int, position: int) -> bool:
        return position == 0

    @property
    def taken(self) -> int:
        return 0

    def fits(self, growth: Sequence[tuple[int, int]]) -> bool:
        return sum(more for _, more in growth) <= self._max_batch

    def owners(self) -> set[int]:
        return set()

    def is_whole(self, sequence: int, length: int) -> bool:
        return length == 0

    def close(self) -> None:
        """There is no memory to free."""
