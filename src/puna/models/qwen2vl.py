"""Qwen 2.5-VL: Qwen 2's build, in which a picture's tokens have rows and columns; arXiv:2502.13923.

llama.cpp's files name the architecture `qwen2vl` and have the image encoder in a file of its own; Ollama's
name it `qwen25vl` and have all in one.
"""

from dataclasses import replace

from puna.errors import UnsupportedModel
from puna.gguf import Metadata
from puna.ml import Backend, RopeType
from puna.ml.nn import FeedForward, bind
from puna.models import hyper
from puna.models.stack import Attention, PreNormBlock, Stack
from puna.models.vision.qwen25vl import Qwen25Vision

_SECTIONS = [16, 24, 24]


class Qwen2VL(Stack):
    """The decoder, and where the file has it, the image encoder."""

    def __init__(self, metadata: Metadata) -> None:
        sizes = hyper.transformer(metadata)
        base = metadata.float("rope.freq_base", 1000000.0)
        rope = hyper.rope(metadata, sizes.key_size, base, RopeType.MULTI)
        layers = [
            PreNormBlock(index, sizes, Attention(sizes), [FeedForward(sizes.hidden, sizes.feed_forward)])
            for index in range(sizes.layers)
        ]
        sections = hyper.sections(metadata, rope.dimensions, _SECTIONS)
        super().__init__(metadata, sizes, replace(rope, sections=sections), layers)
        self.tokens = metadata.strings("tokenizer.ggml.tokens", [])
        if metadata.full_key("vision.block_count") in metadata:
            self.vision = Qwen25Vision(metadata, self.tokens, sizes.hidden)

    def see_through(self, projector: Backend) -> None:
        metadata = projector.config()
        kind = metadata.string("projector_type", metadata.string("vision.projector_type", ""))
        if kind != "qwen2.5vl_merger":
            raise UnsupportedModel(
                f"{metadata.source}: an image encoder of type {kind[:100]!r} is not Qwen 2.5-VL's"
            )
        up, width = projector.get("v.blk.0.ffn_up.weight"), metadata.uint("vision.embedding_length")
        swapped = up is not None and up.shape[0] == width
        self.vision = Qwen25Vision(metadata, self.tokens, self.sizes.hidden, swapped=swapped)
        bind(self.vision, projector)
