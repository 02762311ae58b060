"""StarCoder 2: layer norms with biases, and a feed-forward network of two matrices with GELU.

Lozhkov et al., arXiv:2402.19173.
"""

from puna.gguf import Metadata
from puna.kvcache import Cache, Causal, SlidingWindow
from puna.ml import RopeType
from puna.ml.nn import LayerNorm, PlainFeedForward
from puna.models import hyper
from puna.models.stack import Attention, PreNormBlock, Stack


class StarCoder2(Stack):
    """The decoder."""

    def __init__(self, metadata: Metadata) -> None:
        sizes = hyper.transformer(metadata, eps_key="attention.layer_norm_epsilon")
        base = metadata.float("rope.freq_base", 10000.0)
        rope = hyper.rope(metadata, sizes.key_size, base, RopeType.NEOX)
        super().__init__(
            metadata,
            sizes,
            rope,
            [_layer(index, sizes) for index in range(sizes.layers)],
            norm=LayerNorm,
            window=metadata.uint("attention.sliding_window", 0),
        )

    def cache(self) -> Cache:
        return SlidingWindow(self.window, self.shift) if self.window else Causal(self.shift)


def _layer(index: int, sizes: hyper.Transformer) -> PreNormBlock:
    feed_forward = PlainFeedForward(sizes.hidden, sizes.feed_forward, lambda x: x.gelu())
    return PreNormBlock(index, sizes, Attention(sizes), [feed_forward], norm=LayerNorm)
