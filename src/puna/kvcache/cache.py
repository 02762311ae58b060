"""Two views of a cache: the engine's, which keeps the books, and the model's, which reads and writes.

A cache is a row of cells. A cell holds the keys and values of one token in every layer, and belongs to one
or more sequences: what sequences have in common is stored once. A batch goes through five steps:

    shape = cache.start(positions, sequences)     cells for the batch are taken, graphs are told apart
    history = cache.trace(context, n, shape)      once per graph: its inputs, and the model's view
    …                                             the model's forward calls history.layer(i).update(k, v)
    cache.fill(history)                           this batch's cell numbers and mask go into the inputs
    context.compute(…)

A step with a shape that was traced before needs `start`, `fill` and `compute` only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from puna.errors import InvalidOption, PunaError
from puna.ml import Backend, Context, DType, Tensor
from puna.ml.nn import LayerHistory

if TYPE_CHECKING:
    from puna.kvcache.encoder import EncoderCache

MAX_SEQUENCES = 64

Integers = Sequence[int] | NDArray[np.integer]

Shift = Callable[[int, Tensor, Tensor], Tensor]
"""Moves keys to other positions: (layer, key F32 (cells, kv_heads, d_k), offsets I32 (cells,)) → like key."""


class CacheFull(PunaError):
    """A batch has more tokens than the cache has free cells."""


class ShiftRefused(PunaError):
    """Tokens cannot be taken out of the middle of a sequence; it must be evaluated again from there."""


@dataclass(frozen=True, slots=True)
class Crossed:
    """What a layer that looks across sees of pictures.

    Attributes:
        key, value, mask: as `Tensor.scaled_dot_product_attention` takes them.
        seeing: F32 (tokens, 1), 0 for tokens that see no picture: their results mean nothing; else 1.
    """

    key: Tensor
    value: Tensor
    mask: Tensor
    seeing: Tensor


class History(ABC):
    """A cache as one graph sees it; handed to the model's forward."""

    @abstractmethod
    def layer(self, index: int) -> LayerHistory:
        """What the attention of layer `index` is given."""

    def crossed(self, index: int) -> Crossed | None:
        """What layer `index` sees of pictures; None where none of the batch's tokens sees any."""
        return None

    @abstractmethod
    def fill(self) -> None:
        """Writes the cell numbers and the mask of the batch last started into the graph's inputs."""


class Cache(ABC):
    """A cache as the engine sees it."""

    @abstractmethod
    def init(self, backend: Backend, dtype: DType, max_sequences: int, capacity: int, max_batch: int) -> None:
        """Makes room; called once, before anything else.

        The room is that of `max_sequences` sequences of `capacity` tokens, in one pool: any of the
        sequence numbers 0 … 63 may take as much of it as is free. Memory is allocated by the first
        `trace`, layer by layer.

        Args:
            dtype: of keys and values: F32, F16, Q8_0 or Q4_0.
            max_batch: the most tokens in one `start`.

        Raises:
            InvalidOption: a number is below 1, above 64 sequences, or the type does not suit the backend.
        """

    @property
    def encoder(self) -> EncoderCache | None:
        """The part that holds what an image encoder made, where the model looks across at it."""
        return None

    @abstractmethod
    def start(self, positions: Integers, sequences: Integers) -> Hashable:
        """Takes a cell for each token of a batch.

        Args:
            positions: of the tokens in their sequences, none of which the sequence has already.
            sequences: the number of each token's sequence, 0 … 63.

        Returns:
            What distinguishes this batch's graph, together with its number of tokens.

        Raises:
            CacheFull: not enough free cells; nothing has changed.
        """

    def look_ahead(self, horizons: NDArray[np.int32]) -> None:
        """Lets the tokens of the batch last started see up to these positions of their sequences.

        Without it, each sees up to its own. All that they see is in the batch or was before it.

        Raises:
            InvalidOption: this cache has no order.
        """
        raise InvalidOption("the tokens of this model see all of their text")

    @abstractmethod
    def trace(self, context: Context, tokens: int, shape: Hashable) -> History:
        """Creates the inputs of a graph for `tokens` tokens and a `shape` from `start` or `worst_case`.

        Further on the graph serves every batch of this shape with at most `tokens` tokens. Rows that a
        smaller batch leaves over do no harm, and their results mean nothing.
        """

    def fill(self, history: History) -> None:
        """Makes the inputs of a graph those of the batch last started, before each `compute`."""
        history.fill()

    @abstractmethod
    def worst_case(self) -> Hashable:
        """The shape that takes the most memory of all those that `start` may return."""

    @abstractmethod
    def remove(self, sequence: int, begin: int, end: int | None = None) -> None:
        """Takes positions begin … end - 1 out of a sequence, or all from `begin` on.

        What lies behind `end` moves up by end - begin: its keys are turned to their new positions.

        Raises:
            ShiftRefused: what lies behind cannot move; nothing has changed.
        """

    @abstractmethod
    def copy_prefix(self, source: int, target: int, length: int, *, apart: bool = False) -> None:
        """Makes `target` the first `length` tokens of `source`, sharing cells; what it had before is gone.

        Args:
            apart: what is short is copied where there is room, for a sequence that goes on without the
                source: its cells then lie together, and a graph looks at all that lies between them.

        Raises:
            PunaError: copying was stopped or failed; `target` may have a part.
        """

    @abstractmethod
    def can_resume(self, sequence: int, position: int) -> bool:
        """Whether everything that a token at `position` of this sequence may see is there."""

    def resumable(self, sequence: int, length: int) -> int:
        """How many of the first `length` tokens of a sequence it can go on from; the most, perhaps none."""
        return length if self.can_resume(sequence, length) else 0

    @property
    def most_sequences(self) -> int:
        """How many sequences can have tokens at once, where there are cells for all."""
        return MAX_SEQUENCES

    @property
    def rewinds(self) -> bool:
        """Whether a sequence can resume wherever a `remove` has cut off tokens of its last batch."""
        return True

    @property
    @abstractmethod
    def taken(self) -> int:
        """How many cells belong to sequences."""

    @abstractmethod
    def fits(self, growth: Sequence[tuple[int, int]]) -> bool:
        """Whether there is room for more tokens of several sequences: (number, how many more)."""

    def lies_together(self, tokens: int) -> bool:
        """Whether so many tokens of a new sequence get cells next to each other."""
        return True

    @abstractmethod
    def owners(self) -> set[int]:
        """The sequences that have cells."""

    @abstractmethod
    def is_whole(self, sequence: int, length: int) -> bool:
        """Whether a sequence has `length` tokens, and all of them that its next one may see."""

    @abstractmethod
    def close(self) -> None:
        """Frees the memory; graphs traced with this cache cannot run any more. Closing twice is harmless."""


class Member(Cache):
    """A cache that can be one of several kept in step: what it is asked to do can be refused in time."""

    @abstractmethod
    def undo(self) -> None:
        """Takes back the last `start`, provided nothing else has happened since."""

    @abstractmethod
    def check_remove(self, sequence: int, begin: int, end: int | None) -> None:
        """Raises ShiftRefused if `remove` would, and changes nothing."""
