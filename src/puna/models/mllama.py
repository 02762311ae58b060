"""Llama 3.2 Vision: Llama with further layers that look across at pictures; arXiv:2407.21783, section 7.

A token that no picture precedes passes these layers by, as in training. transformers lets it look at all
pictures instead, also at later ones, unless it comes in an earlier batch.
"""

import math
from collections.abc import Iterator

from puna.errors import GGUFError
from puna.gguf import Metadata
from puna.kvcache import Cache, Causal, Composed, Crossed, EncoderCache
from puna.ml import RopeType, Tensor
from puna.ml.nn import (
    Embedding,
    FeedForward,
    Linear,
    Module,
    RMSNorm,
    Weight,
    merge_heads,
    split_heads,
)
from puna.models import hyper
from puna.models.base import CrossDecoder, Step
from puna.models.stack import Attention, PreNormBlock, Rotation
from puna.models.vision.mllama import MllamaVision

_PICTURE = "<|image|>"
# The id of that token in the released models, whose vocabularies need not name it.
_PICTURE_ID = 128256
# A logit of tokens that have none.
_NEVER = -1e30


class CrossAttention(Module):
    """Tokens look at a picture; queries and keys are normalised head by head."""

    def __init__(self, sizes: hyper.Transformer) -> None:
        self.sizes = sizes
        queries, keys, values = sizes.projections
        self.query = Linear("cross_attn_q_proj", sizes.hidden, queries)
        self.key = Linear("cross_attn_k_proj", sizes.hidden, keys)
        self.value = Linear("cross_attn_v_proj", sizes.hidden, values)
        self.output = Linear("cross_attn_o_proj", sizes.heads * sizes.value_size, sizes.hidden)
        self.query_norm = RMSNorm("cross_attn_q_norm", sizes.key_size, sizes.eps)
        self.key_norm = RMSNorm("cross_attn_k_norm", sizes.key_size, sizes.eps)

    def __call__(self, x: Tensor, seen: Crossed) -> Tensor:
        query = self.query_norm(split_heads(self.query(x), self.sizes.heads))
        scale = 1 / math.sqrt(self.sizes.key_size)
        found = query.scaled_dot_product_attention(seen.key, seen.value, seen.mask, scale)
        return self.output(merge_heads(found))

    def of_picture(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Key and value of a picture, (rows, kv_heads, d)."""
        key = self.key_norm(split_heads(self.key(features), self.sizes.kv_heads))
        return key, split_heads(self.value(features), self.sizes.kv_heads)


class CrossLayer(Module):
    """Cross-attention and feed-forward, each of the normalised state and added to it through a gate."""

    def __init__(self, index: int, sizes: hyper.Transformer) -> None:
        self.scope = f"blk.{index}"
        self.attention_norm = RMSNorm("attn_norm", sizes.hidden, sizes.eps)
        self.attention = CrossAttention(sizes)
        self.attention_gate = Weight("cross_attn_attn_gate", (1,))
        self.feed_forward_norm = RMSNorm("ffn_norm", sizes.hidden, sizes.eps)
        self.feed_forward = FeedForward(sizes.hidden, sizes.feed_forward)
        self.feed_forward_gate = Weight("cross_attn_mlp_gate", (1,))

    def __call__(self, x: Tensor, seen: Crossed) -> Tensor:
        attended = self.attention(self.attention_norm(x), seen) * seen.seeing
        x = x + attended * _opening(self.attention_gate, x)
        fed = self.feed_forward(self.feed_forward_norm(x)) * seen.seeing
        return x + fed * _opening(self.feed_forward_gate, x)


def _opening(gate: Weight, x: Tensor) -> Tensor:
    """How far a gate is open: its hyperbolic tangent, F32 (1,)."""
    return (x.slice(0, 0, 1).slice(1, 0, 1).contiguous(1).scale(0.0) + gate.tensor).tanh()


class SelfLayer(PreNormBlock):
    """A layer of Llama."""

    def __init__(self, index: int, sizes: hyper.Transformer) -> None:
        super().__init__(index, sizes, Attention(sizes), [FeedForward(sizes.hidden, sizes.feed_forward)])


class Mllama(CrossDecoder):
    """The decoder, and where the file has it, the image encoder."""

    vision: MllamaVision | None = None

    def __init__(self, metadata: Metadata) -> None:
        self.sizes = sizes = hyper.transformer(metadata)
        base = metadata.float("rope.freq_base", 500000.0)
        self.rope = hyper.rope(metadata, sizes.key_size, base, RopeType.NORMAL)
        self.crossing = _crossing(metadata, sizes.layers)
        self.vocabulary = hyper.vocabulary(metadata)
        # It has rows for tokens that are never chosen, the picture's among them.
        self.embedding = Embedding("token_embd", None, sizes.hidden)
        self.layers: list[SelfLayer | CrossLayer] = [
            CrossLayer(index, sizes) if index in self.crossing else SelfLayer(index, sizes)
            for index in range(sizes.layers)
        ]
        self.norm = RMSNorm("output_norm", sizes.hidden, sizes.eps)
        self.output = Linear("output", sizes.hidden, None)
        self.frequency_factors = Weight("rope_freqs.weight", (self.rope.dimensions // 2,), optional=True)
        if metadata.full_key("vision.block_count") in metadata:
            self.vision = MllamaVision(metadata, sizes.hidden, _picture_id(metadata))

    def forward(self, step: Step) -> Tensor:
        logits = self.output(self.hidden(step))
        more = (self.vocabulary or 0) - logits.dim(-1)
        if more < 1:
            return logits
        none = logits.slice(-1, 0, 1).contiguous().scale(0.0, _NEVER).repeat(1, more)
        return logits.concat(none, 1)

    def hidden(self, step: Step) -> Tensor:
        x = self.embedding(step.tokens)
        for index, layer in enumerate(self.layers):
            if isinstance(layer, CrossLayer):
                seen = step.history.crossed(index)
                x = x if seen is None else layer(x, seen)
            else:
                # The last layer is one of these.
                last = index == len(self.layers) - 1
                x = layer(x, self._rotation(step), step.history.layer(index), step.select if last else None)
        return self.norm(x)

    def _rotation(self, step: Step) -> Rotation:
        return Rotation(step.positions, self.rope, self.frequency_factors.maybe)

    def crossed(self, features: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        for index, layer in enumerate(self.layers):
            if isinstance(layer, CrossLayer):
                yield index, *layer.attention.of_picture(features)

    def cache(self) -> Cache:
        causal, sizes = Causal(self.shift), self.sizes
        if self.vision is None:
            return causal
        pictures = self.vision.sizes
        encoder = EncoderCache(
            pictures.tokens, pictures.tiles, sorted(self.crossing), (sizes.kv_heads, sizes.key_size)
        )
        return Composed((causal, encoder), [int(index in self.crossing) for index in range(sizes.layers)])

    def shift(self, layer: int, key: Tensor, offsets: Tensor) -> Tensor:
        return key.rope(offsets, hyper.turning(self.rope), self.frequency_factors.maybe)


def _crossing(metadata: Metadata, layers: int) -> frozenset[int]:
    """The layers that look across. Raises: GGUFError: there is no such layer, or it is the last."""
    found = frozenset(metadata.ints("attention.cross_attention_layers", []))
    if any(not 0 <= index < layers - 1 for index in found):
        raise GGUFError(
            f"{metadata.source}: layers {sorted(found)[:10]} of {layers} cannot look across; "
            "the last one has to look back"
        )
    return found


def _picture_id(metadata: Metadata) -> int:
    """The id of the token that stands for a picture."""
    tokens = metadata.strings("tokenizer.ggml.tokens", [])
    return tokens.index(_PICTURE) if _PICTURE in tokens else _PICTURE_ID
