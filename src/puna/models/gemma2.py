"""Gemma 2: layers with and without a window in turn, norms before and after, scores and logits limited.

Gemma Team, arXiv:2408.00118.
"""

import math

from puna.gguf import Metadata
from puna.ml import RopeType, Tensor
from puna.ml.nn import FeedForward, LayerHistory, RMSNorm, geglu
from puna.models import hyper
from puna.models.stack import Attention, Block, Stack, Transform

_LAYERS_27B = 46


class Layer(Block):
    """Attention and feed-forward, each normalised before and after, and added to the state."""

    def __init__(self, index: int, metadata: Metadata, sizes: hyper.Transformer) -> None:
        self.scope = f"blk.{index}"
        width, eps = sizes.hidden, sizes.eps
        # The 27B model scales scores by the width of a head's share of the state, not of its key.
        share = sizes.hidden / sizes.heads if sizes.layers == _LAYERS_27B else sizes.key_size
        softcap = metadata.float("attn_logit_softcapping", 50.0)
        self.attention_norm = RMSNorm("attn_norm", width, eps)
        self.attention = Attention(sizes, scale=1 / math.sqrt(share), logit_softcap=softcap)
        self.attention_post_norm = RMSNorm("post_attention_norm", width, eps)
        self.feed_forward_norm = RMSNorm("ffn_norm", width, eps)
        self.feed_forward = FeedForward(width, sizes.feed_forward, act=geglu)
        self.feed_forward_post_norm = RMSNorm("post_ffw_norm", width, eps)

    def __call__(
        self, x: Tensor, rotate: Transform, history: LayerHistory, select: Transform | None
    ) -> Tensor:
        attended = self.attention(self.attention_norm(x), rotate, history)
        if select is not None:
            x, attended = select(x), select(attended)
        x = x + self.attention_post_norm(attended)
        return x + self.feed_forward_post_norm(self.feed_forward(self.feed_forward_norm(x)))


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
            [Layer(index, metadata, sizes) for index in range(sizes.layers)],
            window=hyper.count(metadata, "attention.sliding_window", 4096),
            local=hyper.local_layers(metadata, sizes.layers, 2),
        )

    def embedded(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens).scale(math.sqrt(self.sizes.hidden))

    def logits(self, x: Tensor) -> Tensor:
        limit = self.final_softcap
        return x.scale(1 / limit).tanh().scale(limit) if limit else x
