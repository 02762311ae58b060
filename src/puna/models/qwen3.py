"""Qwen 3: grouped-query attention of normalised queries and keys, gated feed-forward or a mixture of experts.

Qwen Team, arXiv:2505.09388.
"""

from puna.gguf import Metadata
from puna.ml import RopeType
from puna.ml.nn import FeedForward, MixtureOfExperts
from puna.models import hyper
from puna.models.stack import Attention, PreNormBlock, Stack


class Qwen3(Stack):
    """The decoder."""

    def __init__(self, metadata: Metadata) -> None:
        sizes = hyper.transformer(metadata)
        base = metadata.float("rope.freq_base", 1000000.0)
        rope = hyper.rope(metadata, sizes.key_size, base, RopeType.NEOX)
        layers = [
            PreNormBlock(
                index, sizes, Attention(sizes, head_norms=True), [self._feed_forward(metadata, sizes)]
            )
            for index in range(sizes.layers)
        ]
        super().__init__(metadata, sizes, rope, layers)

    def _feed_forward(self, metadata: Metadata, sizes: hyper.Transformer) -> FeedForward | MixtureOfExperts:
        return FeedForward(sizes.hidden, sizes.feed_forward)


class Qwen3Moe(Qwen3):
    """The decoder with a mixture of experts."""

    def _feed_forward(self, metadata: Metadata, sizes: hyper.Transformer) -> MixtureOfExperts:
        routing = hyper.mixture(metadata, normalise=True)
        width = hyper.count(metadata, "expert_feed_forward_length", sizes.feed_forward // routing.used)
        return MixtureOfExperts(routing, sizes.hidden, width)
