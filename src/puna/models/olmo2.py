"""OLMo 2 and 3: norms after attention and feed-forward only, and of all heads' queries and keys together.

OLMo Team, arXiv:2501.00656; OLMo 3 adds a window in three of four layers, which encode positions unscaled.
"""

import math

from puna.gguf import Metadata
from puna.ml import RopeParameters, RopeType, Tensor
from puna.ml.nn import (
    FeedForward,
    LayerHistory,
    Linear,
    Module,
    Projections,
    RMSNorm,
    attention,
    split_heads,
)
from puna.models import hyper
from puna.models.stack import Block, Rotation, Stack, Transform


class Attention(Module):
    """Grouped-query attention; queries and keys are normalised before they become heads."""

    def __init__(self, sizes: hyper.Transformer) -> None:
        self.sizes = sizes
        query, key, _ = sizes.projections
        self.qkv = Projections(("attn_q", "attn_k", "attn_v"), sizes.hidden, sizes.projections)
        self.query_norm = RMSNorm("attn_q_norm", query, sizes.eps)
        self.key_norm = RMSNorm("attn_k_norm", key, sizes.eps)
        self.output = Linear("attn_output|attn_out", sizes.heads * sizes.value_size, sizes.hidden)

    def __call__(self, x: Tensor, rotate: Rotation, history: LayerHistory) -> Tensor:
        query, key, value = self.qkv(x)
        query = rotate(split_heads(self.query_norm(query), self.sizes.heads))
        key = rotate(split_heads(self.key_norm(key), self.sizes.kv_heads))
        value = split_heads(value, self.sizes.kv_heads)
        return self.output(attention(query, key, value, 1 / math.sqrt(self.sizes.key_size), history))


class Layer(Block):
    """Attention and feed-forward, each normalised and then added to the state."""

    def __init__(self, index: int, sizes: hyper.Transformer) -> None:
        self.scope = f"blk.{index}"
        self.attention = Attention(sizes)
        self.attention_norm = RMSNorm("post_attention_norm", sizes.hidden, sizes.eps)
        self.feed_forward = FeedForward(sizes.hidden, sizes.feed_forward, bias=False)
        self.feed_forward_norm = RMSNorm("post_ffw_norm", sizes.hidden, sizes.eps)

    def __call__(
        self, x: Tensor, rotate: Rotation, history: LayerHistory, select: Transform | None
    ) -> Tensor:
        attended = self.attention(x, rotate, history)
        if select is not None:
            x, attended = select(x), select(attended)
        x = x + self.attention_norm(attended)
        return x + self.feed_forward_norm(self.feed_forward(x))


class Olmo2(Stack):
    """The decoder."""

    def __init__(self, metadata: Metadata) -> None:
        sizes = hyper.transformer(metadata)
        base = metadata.float("rope.freq_base", 10000.0)
        rope = hyper.rope(metadata, sizes.key_size, base, RopeType.NEOX)
        self.local_rope = RopeParameters(rope.dimensions, base, type=RopeType.NEOX)
        window = metadata.uint("attention.sliding_window", 0)
        super().__init__(
            metadata,
            sizes,
            rope,
            [Layer(index, sizes) for index in range(sizes.layers)],
            window=window,
            local=hyper.local_layers(metadata, sizes.layers, 4) if window else (),
        )

    def rope_of(self, layer: int) -> RopeParameters:
        return self.local_rope if self.local[layer] else self.rope
