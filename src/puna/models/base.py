"""What every model is to the engine."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from puna.gguf import Metadata
from puna.kvcache import Cache, History
from puna.ml import Tensor
from puna.ml.nn import Module


@dataclass(frozen=True, slots=True)
class Step:
    """One batch of tokens, as tensors of the graph in which the model runs.

    Attributes:
        tokens: I32 (tokens,), ids.
        positions: I32 (tokens,), each token's place in its sequence.
        outputs: I32 (outputs,), the rows whose logits are wanted, ascending, each at most once.
        history: what came before.
    """

    tokens: Tensor
    positions: Tensor
    outputs: Tensor
    history: History

    def select(self, x: Tensor) -> Tensor:
        """The wanted rows of x (tokens, width) → (outputs, width)."""
        every = self.outputs.dim(0) == self.tokens.dim(0)
        return x if every else x.rows(self.outputs)


class Model(Module, ABC):
    """A model built from a file's metadata; `puna.ml.nn.bind` gives it the weights.

    Attributes:
        ignored: patterns (`fnmatch`) of tensors that files may hold although the model uses none of them.
    """

    ignored: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def __init__(self, metadata: Metadata) -> None:
        """Declares the model's parts.

        Raises:
            GGUFError: a key is missing or makes no sense.
            UnsupportedModel: the file asks for something that is not implemented.
        """

    @abstractmethod
    def forward(self, step: Step) -> Tensor:
        """The logits of the wanted rows, F32 (outputs, vocabulary)."""

    @abstractmethod
    def cache(self) -> Cache:
        """A cache that suits the model's attention, without room yet."""

    @abstractmethod
    def shift(self, layer: int, key: Tensor, offsets: Tensor) -> Tensor:
        """Turns a layer's keys to other positions.

        Args:
            key: F32 (cells, kv_heads, d_k).
            offsets: I32 (cells,), how far each moves.
        """
