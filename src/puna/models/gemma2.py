"""Gemma 2: layers with and without a window in turn, norms before and after, scores and logits limited.

Gemma Team, arXiv:2408.00118.
"""

import math

from puna.gguf import Metadata
from puna.ml import RopeType, Tensor
from puna.ml.nn import FeedForward, geglu
from puna.models import hyper
from puna.models.stack import Attention, SandwichBlock, Stack, softcapped

_LAYERS_27B = 46


def _layer(index: int, metadata: Metadata, sizes: hyper.Transformer) -> SandwichBlock:
    # The 27B model scales scores by the width of a head's share of the state, not of its key.
    share = sizes.hidden / sizes.heads if sizes.layers == _LAYERS_27B else sizes.key_size
    softcap = metadata.float("attn_logit_softcapping", 50.0)
    attention = Attention(sizes, scale=1 / math.sqrt(share), logit_softcap=softcap)
    return SandwichBlock(index, sizes, attention, FeedForward(sizes.hidden, sizes.feed_forward, act=geglu))


class Gemma2(Stack):
    """The decoder."""

    def __init__(self, metadata: Metadata) -> None:
        sizes = hyper.transformer(metadata, eps=1e-6)
        base = metadata.float("rope.freq_base", 10000.0)
        rope = hyper.rope(metadata, sizes.key_size, base, RopeType.NEOX)
        self.final_softcap = metadata.float("final_logit_softcapping", 30.0)
        super().__init__(
            metadata,
            sizes,
            rope,
            [_layer(index, metadata, sizes) for index in range(sizes.layers)],
            window=hyper.count(metadata, "attention.sliding_window", 4096),
            local=hyper.local_layers(metadata, sizes.layers, 2),
        )

    def embedded(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens).scale(math.sqrt(self.sizes.hidden))

    def logits(self, x: Tensor) -> Tensor:
        return softcapped(x, self.final_softcap)
