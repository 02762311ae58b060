"""Phi 3 and 4: Llama's build with fused matrices, and long contexts by two sets of factors for frequencies.

Phi Team, Microsoft, arXiv:2404.14219; LongRoPE (arXiv:2402.13753) for models with 128k tokens of context.
"""

from dataclasses import replace

from puna.errors import UnsupportedModel
from puna.gguf import Metadata
from puna.kvcache import Cache, Causal, SlidingWindow
from puna.ml import RopeParameters, RopeType, Tensor
from puna.ml.nn import FeedForward, Weight
from puna.models import hyper
from puna.models.stack import Attention, PreNormBlock, Stack


class Phi3(Stack):
    """The decoder."""

    def __init__(self, metadata: Metadata) -> None:
        if metadata.uint("expert_count", 0):
            raise UnsupportedModel(f"{metadata.source}: Phi with a mixture of experts is not supported")
        sizes = hyper.transformer(metadata)
        rope = _rope(metadata, sizes)
        layers = [_layer(index, sizes) for index in range(sizes.layers)]
        super().__init__(metadata, sizes, rope, layers, window=metadata.uint("attention.sliding_window", 0))
        pairs = (rope.dimensions // 2,)
        self.long_factors = Weight("rope_factors_long.weight", pairs, optional=True)
        self.short_factors = Weight("rope_factors_short.weight", pairs, optional=True)

    def cache(self) -> Cache:
        return SlidingWindow(self.window, self.shift) if self.window else Causal(self.shift)

    def factors(self) -> Tensor | None:
        # One set for all positions: keys of both kinds would not go together.
        is_long = self.context > self.rope.original_context
        return self.long_factors.maybe if is_long else self.short_factors.maybe


def _layer(index: int, sizes: hyper.Transformer) -> PreNormBlock:
    feed_forward = FeedForward(sizes.hidden, sizes.feed_forward, fused=True)
    return PreNormBlock(index, sizes, Attention(sizes, fused=True), [feed_forward])


def _rope(metadata: Metadata, sizes: hyper.Transformer) -> RopeParameters:
    base = metadata.float("rope.freq_base", 10000.0)
    rope = hyper.rope(metadata, sizes.key_size, base, RopeType.NEOX, longrope=True)
    trained = hyper.count(metadata, "context_length")
    return replace(
        rope,
        original_context=hyper.count(metadata, "rope.scaling.original_context_length", trained),
        attention_factor=metadata.float("rope.scaling.attn_factor", 1.0),
    )
