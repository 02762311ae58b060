"""Qwen 3-VL: Qwen 3's build, in which pictures' tokens have rows and columns, and features in several layers.

Qwen Team, arXiv:2511.21631. Ollama's files have the image encoder among the text's tensors, llama.cpp's in a
file of its own.
"""

from dataclasses import replace

from puna.errors import UnsupportedModel
from puna.gguf import Metadata
from puna.ml import Backend, RopeType, Tensor
from puna.ml.nn import FeedForward, MixtureOfExperts, bind
from puna.models import hyper
from puna.models.base import Step
from puna.models.stack import Attention, PreNormBlock, Stack
from puna.models.vision.qwen3vl import Qwen3Vision

_SECTIONS = [24, 20, 20]


class Qwen3VL(Stack):
    """The decoder, and where the file has it, the image encoder."""

    def __init__(self, metadata: Metadata) -> None:
        sizes = hyper.transformer(metadata)
        base = metadata.float("rope.freq_base", 5000000.0)
        rope = hyper.rope(metadata, sizes.key_size, base, RopeType.INTERLEAVED_MULTI)
        layers = [
            PreNormBlock(
                index, sizes, Attention(sizes, head_norms=True), [self._feed_forward(metadata, sizes)]
            )
            for index in range(sizes.layers)
        ]
        sections = hyper.sections(metadata, rope.dimensions, _SECTIONS)
        super().__init__(metadata, sizes, replace(rope, sections=sections), layers)
        self.tokens = metadata.strings("tokenizer.ggml.tokens", [])
        if metadata.full_key("vision.block_count") in metadata:
            self.vision = Qwen3Vision(metadata, self.tokens, sizes.hidden)

    def _feed_forward(self, metadata: Metadata, sizes: hyper.Transformer) -> FeedForward | MixtureOfExperts:
        return FeedForward(sizes.hidden, sizes.feed_forward)

    def see_through(self, projector: Backend) -> None:
        metadata = projector.config()
        kind = metadata.string("projector_type", metadata.string("vision.projector_type", ""))
        if kind != "qwen3vl_merger":
            raise UnsupportedModel(
                f"{metadata.source}: an image encoder of type {kind[:100]!r} is not Qwen 3-VL's"
            )
        self.vision = Qwen3Vision(metadata, self.tokens, self.sizes.hidden)
        bind(self.vision, projector)

    def hidden(self, step: Step) -> Tensor:
        embedded = self.embedded(step.tokens)
        x = step.pictured(embedded)
        levels = 0 if step.features is None else step.features.dim(-1) // self.sizes.hidden
        for index, layer in enumerate(self.layers):
            last = index == len(self.layers) - 1
            x = layer(x, self.rotation(step, index), step.history.layer(index), step.select if last else None)
            if index + 1 < levels:
                added = step.pictured(embedded.scale(0.0), index + 1)
                x = x + (step.select(added) if last else added)
        return self.norm(x)


class Qwen3VLMoe(Qwen3VL):
    """The decoder with a mixture of experts."""

    def _feed_forward(self, metadata: Metadata, sizes: hyper.Transformer) -> MixtureOfExperts:
        routing = hyper.mixture(metadata, normalise=True)
        width = hyper.count(metadata, "expert_feed_forward_length", sizes.feed_forward // routing.used)
        return MixtureOfExperts(routing, sizes.hidden, width)
