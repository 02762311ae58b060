"""Granite 3: Llama's build with four factors, of embeddings, scores, what layers add, and logits.

Granite Team, IBM, "Granite 3.0 Language Models", 2024; the factors are those of arXiv:2203.03466.
"""

import math

from puna.errors import GGUFError, UnsupportedModel
from puna.gguf import Metadata
from puna.ml import RopeType, Tensor
from puna.ml.nn import FeedForward
from puna.models import hyper
from puna.models.stack import Attention, PreNormBlock, Stack


class Granite(Stack):
    """The decoder."""

    def __init__(self, metadata: Metadata) -> None:
        if metadata.uint("expert_count", 0):
            raise UnsupportedModel(f"{metadata.source}: Granite with a mixture of experts is not supported")
        if not metadata.bool("rope.scaling.finetuned", True):
            raise UnsupportedModel(f"{metadata.source}: Granite without rotary positions is not supported")
        sizes = hyper.transformer(metadata)
        base = metadata.float("rope.freq_base", 10000.0)
        rope = hyper.rope(metadata, sizes.key_size, base, RopeType.NORMAL)
        scale, residual = _factor(metadata, "attention.scale"), _factor(metadata, "residual_scale")
        self.embedding_scale = _factor(metadata, "embedding_scale") or 1.0
        self.logit_scale = _factor(metadata, "logit_scale") or 1.0
        layers = [
            PreNormBlock(
                index,
                sizes,
                Attention(sizes, scale=scale or None),
                [FeedForward(sizes.hidden, sizes.feed_forward)],
                residual_scale=residual or 1.0,
            )
            for index in range(sizes.layers)
        ]
        super().__init__(metadata, sizes, rope, layers)

    def embedded(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens).scale(self.embedding_scale)

    def logits(self, x: Tensor) -> Tensor:
        return x.scale(1 / self.logit_scale)


def _factor(metadata: Metadata, key: str) -> float:
    """A factor, 0 where the file has none."""
    value = metadata.float(key, 0.0)
    if not 0 <= value < math.inf:
        raise GGUFError(f"{metadata.source}: the key {metadata.full_key(key)!r} cannot be {value}")
    return value
