"""Gemma 3: five layers with a sliding window for each that sees everything, norms before and after; pictures.

Gemma Team, arXiv:2503.19786. Files of two origins are read: llama.cpp's names come first, Ollama's second.
"""

import math
from dataclasses import dataclass, replace

from puna.errors import UnsupportedModel
from puna.gguf import Metadata
from puna.ml import Backend, RopeParameters, RopeType, Tensor
from puna.ml.nn import FeedForward, bind, geglu
from puna.models import hyper
from puna.models.base import Placement
from puna.models.stack import Attention, SandwichBlock, Stack, softcapped
from puna.models.vision.siglip import SiglipVision, Sizes

# The published sizes are told apart by their layers, where files lack what the paper says of them.
_LAYERS_1B = 26
_LAYERS_27B = 62
_LAYERS_WITH_LONG_CONTEXT = (34, 48, _LAYERS_27B)


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Sizes, which layers have a window, and how each kind encodes positions.

    Attributes:
        window: tokens that a local layer sees.
        local: for each layer, whether it has the window.
        query_scale: factor of the attention scores.
        final_softcap: limit of the logits, 0 for none.
    """

    sizes: hyper.Transformer
    window: int
    local: tuple[bool, ...]
    local_rope: RopeParameters
    global_rope: RopeParameters
    query_scale: float
    final_softcap: float

    @classmethod
    def of(cls, metadata: Metadata) -> "Hyperparameters":
        """Reads them. Raises GGUFError and UnsupportedModel, see `Model`."""
        sizes = hyper.transformer(metadata, head_size=256, eps=1e-6)
        window = metadata.uint("attention.sliding_window", 0)
        large = sizes.layers == _LAYERS_27B
        final_softcap = metadata.float("final_logit_softcapping", 0.0)
        return cls(
            sizes,
            window,
            hyper.local_layers(metadata, sizes.layers, 6) if window else (False,) * sizes.layers,
            _local_rope(metadata, sizes.key_size),
            _global_rope(metadata, sizes),
            1 / math.sqrt(sizes.hidden / sizes.heads if large else sizes.key_size),
            # Early files of this size carry Gemma 2's value, which the model was not trained with.
            0.0 if sizes.layers == _LAYERS_1B else final_softcap,
        )


def _local_rope(metadata: Metadata, size: int) -> RopeParameters:
    base = metadata.float("rope.freq_base_swa", metadata.float("rope.local.freq_base", 10000.0))
    return RopeParameters(size, base, type=RopeType.NEOX)


def _global_rope(metadata: Metadata, sizes: hyper.Transformer) -> RopeParameters:
    base = metadata.float("rope.freq_base", metadata.float("rope.global.freq_base", 1000000.0))
    rope = hyper.rope(metadata, sizes.key_size, base, RopeType.NEOX)
    stated = metadata.full_key("rope.scaling.factor") in metadata
    # Early files do not say that the sizes with 128k tokens of context were stretched.
    return rope if stated or sizes.layers not in _LAYERS_WITH_LONG_CONTEXT else replace(rope, scale=8.0)


def _placement(metadata: Metadata, count: int, window: int) -> Placement:
    """How a picture stands in a prompt: between two tags, with empty lines around.

    Raises:
        UnsupportedModel: the local layers' window is narrower than a picture.
    """
    if 0 < window < count:
        raise UnsupportedModel(
            f"{metadata.source}: a window of {window} tokens does not hold a picture of {count}"
        )
    names = ("\n\n", "<start_of_image>", "<end_of_image>")
    tokens = metadata.strings("tokenizer.ggml.tokens", [])
    ids = {name: tokens.index(name) for name in names if name in tokens}
    before = tuple(ids[name] for name in names[:2] if name in ids)
    after = tuple(ids[name] for name in (names[2], names[0]) if name in ids)
    return Placement(0, count, before, after)


class Gemma3(Stack):
    """The decoder, and where the file has it, the image encoder."""

    def __init__(self, metadata: Metadata) -> None:
        parameters = Hyperparameters.of(metadata)
        self.final_softcap, self.local_rope = parameters.final_softcap, parameters.local_rope
        layers = [_layer(index, parameters) for index in range(parameters.sizes.layers)]
        super().__init__(
            metadata,
            parameters.sizes,
            parameters.global_rope,
            layers,
            window=parameters.window,
            local=parameters.local,
        )
        self.metadata = metadata
        if metadata.full_key("vision.block_count") in metadata:
            self.vision = self._vision(Sizes.of(metadata))

    def _vision(self, sizes: Sizes, *, swapped: bool = False) -> SiglipVision:
        placement = _placement(self.metadata, sizes.tokens, self.window)
        return SiglipVision(sizes, self.sizes.hidden, placement, swapped=swapped)

    def see_through(self, projector: Backend) -> None:
        metadata = projector.config()
        kind = metadata.string("projector_type", metadata.string("vision.projector_type", ""))
        if kind != "gemma3":
            raise UnsupportedModel(
                f"{metadata.source}: an image encoder of type {kind[:100]!r} is not Gemma 3's"
            )
        sizes = Sizes.of(metadata)
        up = projector.get("v.blk.0.ffn_up.weight")
        self.vision = self._vision(sizes, swapped=up is not None and up.shape[0] == sizes.hidden)
        bind(self.vision, projector)

    def embedded(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens).scale(math.sqrt(self.sizes.hidden))

    def logits(self, x: Tensor) -> Tensor:
        return softcapped(x, self.final_softcap)

    def rope_of(self, layer: int) -> RopeParameters:
        return self.local_rope if self.local[layer] else self.rope


def _layer(index: int, parameters: Hyperparameters) -> SandwichBlock:
    sizes = parameters.sizes
    # Queries are scaled first, as in llama.cpp: results are equal to the bit.
    attention = Attention(sizes, head_norms=True, scale=parameters.query_scale, scale_queries=True)
    return SandwichBlock(index, sizes, attention, FeedForward(sizes.hidden, sizes.feed_forward, act=geglu))
