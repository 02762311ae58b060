"""What a layer has of earlier tokens; handed in by whoever keeps it."""

from collections.abc import Callable, Sequence

from puna.errors import InvalidOption
from puna.ml.tensor import Tensor

Advance = Callable[..., tuple[Tensor, Tensor]]
"""Takes states (sequences, …) and inputs (sequences, tokens, …); gives results like these, and new states."""


class LayerHistory:
    """One layer's keys and values of all tokens so far, or what it carries on from token to token."""

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Stores this batch's keys and values and gives what its tokens may look at.

        Args:
            key: F32 (tokens, kv_heads, d_k).
            value: F32 (tokens, kv_heads, d_v).

        Returns:
            Key, value and mask as `Tensor.scaled_dot_product_attention` takes them.

        Raises:
            InvalidOption: the layer's cache keeps no keys and values.
        """
        raise InvalidOption("this layer's cache keeps states, no keys and values")

    def carry(self, name: str, shape: Sequence[int], inputs: Sequence[Tensor], advance: Advance) -> Tensor:
        """Brings each sequence's state up to its last token of this batch.

        Args:
            name: tells a layer's states apart, if it has several.
            shape: of one sequence's state; before its first token it is zero.
            inputs: F32 (tokens, …) each.
            advance: how tokens change states; called for parts of the batch.

        Returns:
            F32 (tokens, …), what `advance` gave.

        Raises:
            InvalidOption: the layer's cache keeps no states.
        """
        raise InvalidOption("this layer's cache keeps keys and values, no states")
