"""Qwen 2 and 2.5: Llama's build with biases on queries, keys and values, and halves rotated together.

Qwen Team, arXiv:2407.10671 and arXiv:2412.15115. `Qwen2Moe` is Qwen 1.5 and 2 with a mixture of experts, one
of which every token uses.
"""

from puna.gguf import Metadata
from puna.ml import RopeType
from puna.ml.nn import FeedForward, MixtureOfExperts, SharedExpert
from puna.models import hyper
from puna.models.stack import Attention, Block, PreNormBlock, Stack


class Qwen2(Stack):
    """The decoder."""

    def __init__(self, metadata: Metadata) -> None:
        sizes = hyper.transformer(metadata)
        base = metadata.float("rope.freq_base", 10000.0)
        rope = hyper.rope(metadata, sizes.key_size, base, RopeType.NEOX)
        super().__init__(metadata, sizes, rope, self._blocks(metadata, sizes))

    def _blocks(self, metadata: Metadata, sizes: hyper.Transformer) -> list[Block]:
        return [
            PreNormBlock(index, sizes, Attention(sizes), [FeedForward(sizes.hidden, sizes.feed_forward)])
            for index in range(sizes.layers)
        ]


class Qwen2Moe(Qwen2):
    """The decoder with a mixture of experts."""

    def _blocks(self, metadata: Metadata, sizes: hyper.Transformer) -> list[Block]:
        routing = hyper.mixture(metadata, normalise=False)
        width = hyper.count(metadata, "expert_feed_forward_length", sizes.feed_forward // routing.used)
        shared = hyper.count(metadata, "expert_shared_feed_forward_length", sizes.feed_forward)
        return [
            PreNormBlock(
                index,
                sizes,
                Attention(sizes),
                [MixtureOfExperts(routing, sizes.hidden, width), SharedExpert(sizes.hidden, shared)],
            )
            for index in range(sizes.layers)
        ]
