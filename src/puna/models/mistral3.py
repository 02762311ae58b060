"""Mistral Small 3 and Ministral 3: Llama's build, whose queries may grow with their position; pictures.

Mistral AI, "Mistral Small 3.1", 2025. Files of two origins are read: llama.cpp's names come first, Ollama's
second.
"""

import numpy as np
from numpy.typing import NDArray

from puna.errors import UnsupportedModel
from puna.gguf import Metadata
from puna.ml import Backend, RopeType
from puna.ml.nn import FeedForward
from puna.models import hyper
from puna.models.stack import Attention, PreNormBlock, Stack
from puna.models.vision import pixtral


class Mistral3(Stack):
    """The decoder, and where the file has it, the image encoder."""

    def __init__(self, metadata: Metadata) -> None:
        if metadata.uint("expert_count", 0):
            raise UnsupportedModel(f"{metadata.source}: Mistral 3 with a mixture of experts is not supported")
        sizes = hyper.transformer(metadata)
        base = metadata.float("rope.freq_base", 10000.0)
        rope = hyper.rope(metadata, sizes.key_size, base, RopeType.NORMAL)
        self.temperature = _temperature(metadata)
        layers = [
            PreNormBlock(index, sizes, Attention(sizes), [FeedForward(sizes.hidden, sizes.feed_forward)])
            for index in range(sizes.layers)
        ]
        super().__init__(metadata, sizes, rope, layers)
        self.metadata = metadata
        self.vision = pixtral.seen_within(metadata, sizes.hidden)

    def see_through(self, projector: Backend) -> None:
        self.vision = pixtral.seen_through(projector, self.metadata, self.sizes.hidden)

    def is_tempered(self, layer: int) -> bool:
        return self.temperature.scale != 0

    def temperatures(self, positions: NDArray[np.int32]) -> NDArray[np.float64]:
        return self.temperature.at(positions)


def _temperature(metadata: Metadata) -> hyper.Temperature:
    trained = hyper.count(metadata, "context_length")
    length = hyper.count(metadata, "rope.scaling.original_context_length", trained)
    scale = metadata.float("attention.temperature_scale", metadata.float("rope.scaling_beta", 0.0))
    return hyper.temperature(metadata, length, scale)
