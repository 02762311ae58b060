"""Gemma 3, text: five layers with a sliding window for each that sees everything, norms before and after.

Gemma Team, arXiv:2503.19786. Files of two origins are read: llama.cpp's names come first, Ollama's second.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from puna.errors import UnsupportedModel
from puna.gguf import Metadata
from puna.kvcache import Cache, Causal, Composed, SlidingWindow
from puna.ml import Backend, RopeParameters, RopeType, Tensor
from puna.ml.nn import (
    Embedding,
    LayerHistory,
    Linear,
    Module,
    Projections,
    RMSNorm,
    attention,
    bind,
    split_heads,
)
from puna.models import hyper
from puna.models.base import Decoder, Placement, Step
from puna.models.vision.siglip import SiglipVision, Sizes

Transform = Callable[[Tensor], Tensor]

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


class Attention(Module):
    """Grouped-query attention of normalised queries and keys."""

    def __init__(self, parameters: Hyperparameters) -> None:
        self.parameters = parameters
        self.sizes = sizes = parameters.sizes
        self.qkv = Projections(
            ("attn_q", "attn_k", "attn_v"), sizes.hidden, sizes.projections, bias="optional"
        )
        self.query_norm = RMSNorm("attn_q_norm", sizes.key_size, sizes.eps)
        self.key_norm = RMSNorm("attn_k_norm", sizes.key_size, sizes.eps)
        self.output = Linear("attn_output|attn_out", sizes.heads * sizes.value_size, sizes.hidden)

    def __call__(self, x: Tensor, rotate: Transform, history: LayerHistory) -> Tensor:
        query, key, value = self.qkv(x)
        query = rotate(self.query_norm(split_heads(query, self.sizes.heads)))
        # Scaled before its conversion to half precision, as llama.cpp does: results are equal to the bit.
        query = query.scale(self.parameters.query_scale)
        key = rotate(self.key_norm(split_heads(key, self.sizes.kv_heads)))
        value = split_heads(value, self.sizes.kv_heads)
        return self.output(attention(query, key, value, 1.0, history))


class FeedForward(Module):
    """gelu(W_gate x) * W_up x, back through W_down; Shazeer, arXiv:2002.05202."""

    def __init__(self, sizes: hyper.Transformer) -> None:
        width = sizes.feed_forward
        self.gate_up = Projections(("ffn_gate", "ffn_up"), sizes.hidden, (width, width))
        self.down = Linear("ffn_down", width, sizes.hidden)

    def __call__(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x)
        return self.down(gate.geglu(up))


class Layer(Module):
    """Attention and feed-forward, each normalised before and after, and added to the state."""

    def __init__(self, index: int, parameters: Hyperparameters) -> None:
        self.scope = f"blk.{index}"
        width, eps = parameters.sizes.hidden, parameters.sizes.eps
        self.attention_norm = RMSNorm("attn_norm", width, eps)
        self.attention = Attention(parameters)
        self.attention_post_norm = RMSNorm("post_attention_norm", width, eps)
        self.feed_forward_norm = RMSNorm("ffn_norm", width, eps)
        self.feed_forward = FeedForward(parameters.sizes)
        self.feed_forward_post_norm = RMSNorm("post_ffw_norm", width, eps)

    def __call__(
        self, x: Tensor, rotate: Transform, history: LayerHistory, select: Transform | None
    ) -> Tensor:
        attended = self.attention(self.attention_norm(x), rotate, history)
        if select is not None:
            x, attended = select(x), select(attended)
        x = x + self.attention_post_norm(attended)
        return x + self.feed_forward_post_norm(self.feed_forward(self.feed_forward_norm(x)))


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


class Gemma3(Decoder):
    """The decoder, and where the file has it, the image encoder."""

    def __init__(self, metadata: Metadata) -> None:
        self.parameters = Hyperparameters.of(metadata)
        sizes = self.parameters.sizes
        self.metadata = metadata
        vocabulary = hyper.vocabulary(metadata)
        self.embedding = Embedding("token_embd", vocabulary, sizes.hidden)
        self.layers = [Layer(index, self.parameters) for index in range(sizes.layers)]
        self.norm = RMSNorm("output_norm", sizes.hidden, sizes.eps)
        self.output = Linear("output|token_embd", sizes.hidden, vocabulary)
        if metadata.full_key("vision.block_count") in metadata:
            self.vision = self._vision(Sizes.of(metadata))

    def _vision(self, sizes: Sizes, *, swapped: bool = False) -> SiglipVision:
        placement = _placement(self.metadata, sizes.tokens, self.parameters.window)
        return SiglipVision(sizes, self.parameters.sizes.hidden, placement, swapped=swapped)

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

    def forward(self, step: Step) -> Tensor:
        logits, limit = self.output(self.hidden(step)), self.parameters.final_softcap
        return logits.scale(1 / limit).tanh().scale(limit) if limit else logits

    def hidden(self, step: Step) -> Tensor:
        x = self.embedding(step.tokens).scale(math.sqrt(self.parameters.sizes.hidden))
        x = step.pictured(x)
        for index, layer in enumerate(self.layers):
            last = index == len(self.layers) - 1
            rotate = partial(self._rotated, positions=step.positions, layer=index)
            x = layer(x, rotate, step.history.layer(index), step.select if last else None)
        return self.norm(x)

    def _rotated(self, heads: Tensor, positions: Tensor, layer: int) -> Tensor:
        return heads.rope(positions, self._rope(layer))

    def _rope(self, layer: int) -> RopeParameters:
        return self.parameters.local_rope if self.parameters.local[layer] else self.parameters.global_rope

    def cache(self) -> Cache:
        if not any(self.parameters.local):
            return Causal(self.shift)
        members = (SlidingWindow(self.parameters.window, self.shift), Causal(self.shift))
        return Composed(members, [0 if local else 1 for local in self.parameters.local])

    def shift(self, layer: int, key: Tensor, offsets: Tensor) -> Tensor:
        return key.rope(offsets, hyper.turning(self._rope(layer)))
