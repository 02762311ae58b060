"""What every model is to the engine."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from puna.gguf import Metadata
from puna.kvcache import Cache, History, WithinBatch
from puna.ml import Tensor
from puna.ml.nn import Module


@dataclass(frozen=True, slots=True)
class Step:
    """One batch of tokens, as tensors of the graph in which the model runs.

    Attributes:
        tokens: I32 (tokens,), ids.
        positions: I32 (tokens,), each token's place in its sequence.
        outputs: I32 (outputs,), the rows whose results are wanted, ascending; all, where they are as many.
        history: what came before.
        segments: I32 (tokens,), 1 for the tokens of the second of two texts, else 0; for encoders.
        temperatures: F32 (tokens, 1, 1), what `Model.temperatures` makes of the positions; else undefined.
    """

    tokens: Tensor
    positions: Tensor
    outputs: Tensor
    history: History
    segments: Tensor
    temperatures: Tensor

    def select(self, x: Tensor) -> Tensor:
        """The wanted rows of x (tokens, width) → (outputs, width)."""
        every = self.outputs.dim(0) == self.tokens.dim(0)
        return x if every else x.rows(self.outputs)


class Model(Module, ABC):
    """A model built from a file's metadata; `puna.ml.nn.bind` gives it the weights.

    It is a `Decoder` or an `Encoder`.

    Attributes:
        ignored: patterns (`fnmatch`) of tensors that files may hold although the model uses none of them.
        context: tokens that a sequence has room for, told before a cache is made.
    """

    ignored: tuple[str, ...] = ()
    context: int = 0

    @abstractmethod
    def __init__(self, metadata: Metadata) -> None:
        """Declares the model's parts.

        Raises:
            GGUFError: a key is missing or makes no sense.
            UnsupportedModel: the file asks for something that is not implemented.
        """

    @abstractmethod
    def hidden(self, step: Step) -> Tensor:
        """The states of the wanted rows after the last layer and its norm, F32 (outputs, hidden)."""

    @abstractmethod
    def cache(self) -> Cache:
        """A cache that suits the model's attention, without room yet."""

    def temperatures(self, positions: NDArray[np.int32]) -> NDArray[np.float64] | None:
        """What layers multiply the queries of tokens at these positions with; None where no layer does."""
        return None


class Decoder(Model):
    """A model that tells which token comes next, each token seeing those before it."""

    @abstractmethod
    def forward(self, step: Step) -> Tensor:
        """The logits of the wanted rows, F32 (outputs, vocabulary)."""

    @abstractmethod
    def shift(self, layer: int, key: Tensor, offsets: Tensor) -> Tensor:
        """Turns a layer's keys to other positions.

        Args:
            key: F32 (cells, kv_heads, d_k).
            offsets: I32 (cells,), how far each moves.
        """


class Encoder(Model):
    """A model that reads whole texts, each token seeing all of its text; it generates nothing."""

    def cache(self) -> Cache:
        return WithinBatch()

    @property
    def segment_kinds(self) -> int:
        """How many values `Step.segments` can have; 0 where they play no part."""
        return 0

    def scores(self, states: Tensor) -> Tensor | None:
        """What a head for classification says of the first tokens' states.

        Args:
            states: F32 (texts, hidden).

        Returns:
            F32 (texts, labels), or None if the file has no such head.
        """
        return None
