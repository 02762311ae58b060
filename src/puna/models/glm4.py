"""GLM 4, of 2025: norms before and after, gate and up in one matrix, and half of each head rotated.

GLM Team, arXiv:2406.12793, and "GLM-4-0414", 2025.
"""

from puna.errors import UnsupportedModel
from puna.gguf import Metadata
from puna.ml import RopeType
from puna.ml.nn import FeedForward
from puna.models import hyper
from puna.models.stack import Attention, SandwichBlock, Stack


class Glm4(Stack):
    """The decoder."""

    def __init__(self, metadata: Metadata) -> None:
        for key in ("rope.dimension_sections", "nextn_predict_layers"):
            if metadata.full_key(key) in metadata:
                raise UnsupportedModel(f"{metadata.source}: GLM 4 with {key} is not supported")
        sizes = hyper.transformer(metadata)
        base = metadata.float("rope.freq_base", 10000.0)
        rope = hyper.rope(metadata, sizes.key_size, base, RopeType.NORMAL)
        layers = [
            SandwichBlock(
                index, sizes, Attention(sizes), FeedForward(sizes.hidden, sizes.feed_forward, fused=True)
            )
            for index in range(sizes.layers)
        ]
        super().__init__(metadata, sizes, rope, layers)
