"""What every model is to the engine."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from puna.errors import UnsupportedModel
from puna.gguf import Metadata
from puna.images.pixels import Pixels
from puna.kvcache import Cache, History, WithinBatch
from puna.ml import Backend, Context, DType, Tensor
from puna.ml.nn import Module


@dataclass(frozen=True, slots=True)
class Step:
    """One batch of tokens, as tensors of the graph in which the model runs.

    Attributes:
        tokens: I32 (tokens,), ids.
        positions: I32 (tokens * `Model.coordinates`,), each token's place in its sequence; where a place has
            several coordinates, the first of all tokens, then the second, and so on.
        outputs: I32 (outputs,), the rows whose results are wanted, ascending; all, where they are as many.
        history: what came before.
        segments: I32 (tokens,), 1 for the tokens of the second of two texts, else 0; for encoders.
        temperatures: F32 (tokens, 1, 1), what `Model.temperatures` makes of the positions; else undefined.
        features: F32 (rows, width), what the batch's pictures have in place of embeddings; None without any.
            Where it is several times as wide as embeddings, the rest is for `pictured` with further levels.
        sources: I32 (tokens,), for each token its row in the embeddings with the features below; or None.
    """

    tokens: Tensor
    positions: Tensor
    outputs: Tensor
    history: History
    segments: Tensor
    temperatures: Tensor
    features: Tensor | None = None
    sources: Tensor | None = None

    def pictured(self, embeddings: Tensor, level: int = 0) -> Tensor:
        """Embeddings (tokens, hidden), with the features of pictures in their places.

        Args:
            level: which of the features that lie side by side.
        """
        if self.features is None or self.sources is None:
            return embeddings
        width = embeddings.dim(-1)
        own = self.features.slice(1, level * width, (level + 1) * width).contiguous()
        return embeddings.concat(own, 0).rows(self.sources)

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
        coordinates: how many numbers tell a token's place: 1, or 4 where pictures have rows and columns.
    """

    ignored: tuple[str, ...] = ()
    context: int = 0
    coordinates: int = 1

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


@dataclass(frozen=True, slots=True)
class Placement:
    """The tokens that stand in a prompt for a picture.

    Attributes:
        before: ids in front of it.
        token: the id at each of its own positions.
        count: how many of these there are.
        after: ids behind it.
        columns: how many of its own positions lie beside each other, for models whose places have several
            coordinates; 0 where they follow each other.
        whole: its tokens see each other, so that they are evaluated together.
    """

    token: int
    count: int = 1
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    columns: int = 0
    whole: bool = True

    @property
    def length(self) -> int:
        """How many tokens it takes in all."""
        return len(self.before) + self.count + len(self.after)


class Vision(Module, ABC):
    """What makes features of pictures, for a decoder.

    Attributes:
        placement: how a picture stands in a prompt; the largest, where sizes differ.
        largest: pixels of the picture that takes the most memory; their values do not matter.
    """

    placement: Placement
    largest: Pixels

    def placement_of(self, content: bytes) -> Placement:
        """How the picture of this file stands in a prompt.

        Raises:
            InvalidOption: it is no picture, broken or too large.
        """
        return self.placement

    @abstractmethod
    def prepare(self, content: bytes) -> Pixels:
        """A picture as the model looks at it, from the content of its file.

        Raises:
            InvalidOption: it is no picture, broken or too large.
        """

    @abstractmethod
    def encode(self, context: Context, pixels: Pixels, mask_dtype: DType) -> Tensor:
        """The features of a picture, F32 (rows, width of the decoder's states).

        Args:
            mask_dtype: of masks, as the backend's attention takes them.
        """


class Decoder(Model):
    """A model that tells which token comes next, each token seeing those before it.

    Attributes:
        vision: what it sees pictures with, None if it sees none.
    """

    vision: Vision | None = None

    def see_through(self, projector: Backend) -> None:
        """Takes its image encoder from another file than its own, opened by this backend.

        Raises:
            UnsupportedModel: this model, or this file, is not made for that.
            GGUFError, WeightError: the file makes no sense, or its tensors are not those of the encoder.
        """
        raise UnsupportedModel("the model takes no image encoder from a file of its own")

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


class CrossDecoder(Decoder):
    """A decoder with layers that look across at pictures, whose keys and values its cache holds."""

    @abstractmethod
    def crossed(self, features: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """What each of these layers is to see of a picture: its number, key and value (rows, kv_heads, d).

        Args:
            features: as `Vision.encode` gives them.
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
