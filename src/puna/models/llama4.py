"""Llama 4, text: attention within chunks, but in every fourth layer of everything and without positions.

Meta, "The Llama 4 herd", 2025; queries that see everything grow with their position (arXiv:2501.19399). Files
of two origins are read: llama.cpp's names come first, Ollama's second.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from puna.gguf import Metadata
from puna.kvcache import Cache, Causal, Chunked, Composed
from puna.ml import RopeParameters, RopeType, Tensor
from puna.ml.nn import FeedForward, MixtureOfExperts, Scores
from puna.models import hyper
from puna.models.base import Step
from puna.models.stack import Attention, PreNormBlock, Rotation, Stack

_PERIOD = 4
# The larger model, which files do not tell apart otherwise, has no norms of queries and keys.
_EXPERTS_OF_MAVERICK = 128


class Llama4(Stack):
    """The decoder."""

    # Ollama's files hold the image encoder as well.
    ignored = ("v.*", "mm.*")

    def __init__(self, metadata: Metadata) -> None:
        sizes = hyper.transformer(metadata)
        base = metadata.float("rope.freq_base", 500000.0)
        rope = hyper.rope(metadata, sizes.key_size, base, RopeType.NORMAL)
        # Small models of the family see everything in each layer; their files say a window of 0.
        chunked = metadata.uint("attention.sliding_window", 1) > 0
        self.chunk = hyper.count(metadata, "attention.chunk_size", 8192)
        self.temperature = hyper.temperature(
            metadata,
            hyper.count(metadata, "attention.temperature_length", 8192),
            metadata.float("attention.temperature_scale", 0.1),
            offset=1,
        )
        large = hyper.count(metadata, "expert_count") == _EXPERTS_OF_MAVERICK
        self.normalised = metadata.bool("use_qk_norm", not large)
        super().__init__(
            metadata,
            sizes,
            rope,
            [
                PreNormBlock(index, sizes, Attention(sizes), _feed_forward(index, metadata, sizes))
                for index in range(sizes.layers)
            ],
            local=[chunked and (index + 1) % _PERIOD != 0 for index in range(sizes.layers)],
        )

    def rope_of(self, layer: int) -> RopeParameters | None:
        return self.rope if self.local[layer] or not any(self.local) else None

    def is_tempered(self, layer: int) -> bool:
        return self.rope_of(layer) is None

    def temperatures(self, positions: NDArray[np.int32]) -> NDArray[np.float64]:
        return self.temperature.at(positions)

    def rotation(self, step: Step, layer: int) -> Rotation:
        rotation = super().rotation(step, layer)
        return replace(rotation, norm=self._norm) if self.normalised and rotation.parameters else rotation

    def _norm(self, heads: Tensor) -> Tensor:
        return heads.rms_norm(None, self.sizes.eps)

    def cache(self) -> Cache:
        if not any(self.local):
            return Causal(self.shift)
        members = (Chunked(self.chunk, self.shift), Causal(self.shift))
        return Composed(members, [0 if local else 1 for local in self.local])


def _feed_forward(
    index: int, metadata: Metadata, sizes: hyper.Transformer
) -> list[Callable[[Tensor], Tensor]]:
    step = metadata.uint("interleave_moe_layer_step", 1)
    if not step or (index + 1) % step:
        width = hyper.count(metadata, "intermediate_size", sizes.feed_forward)
        return [FeedForward(sizes.hidden, width, bias=False)]
    routing = hyper.mixture(metadata, normalise=False, scores=Scores.SIGMOID)
    width = hyper.count(
        metadata,
        "expert_feed_forward_length",
        hyper.count(metadata, "intermediate_size_moe", sizes.feed_forward),
    )
    return [
        MixtureOfExperts(routing, sizes.hidden, width, weigh_inputs=True),
        FeedForward(sizes.hidden, width, suffix="_shexp", bias=False),
    ]
