"""Llama: grouped-query attention with rotary positions, gated feed-forward, RMS norms before each.

Touvron et al., arXiv:2302.13971; Llama Team, arXiv:2407.21783. Also SmolLM, Mistral 7B, TinyLlama and others
whose files name this architecture.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from puna.errors import UnsupportedModel
from puna.gguf import Metadata
from puna.kvcache import Cache, Causal
from puna.ml import RopeParameters, RopeType, Tensor
from puna.ml.nn import (
    Embedding,
    LayerHistory,
    Linear,
    Module,
    Projections,
    RMSNorm,
    Weight,
    attention,
    split_heads,
)
from puna.models import hyper
from puna.models.base import Decoder, Step

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Sizes, and how positions are encoded."""

    sizes: hyper.Transformer
    rope: RopeParameters

    @classmethod
    def of(cls, metadata: Metadata) -> "Hyperparameters":
        """Reads them. Raises GGUFError and UnsupportedModel, see `Model`."""
        if metadata.uint("expert_count", 0):
            raise UnsupportedModel(f"{metadata.source}: Llama with a mixture of experts is not supported")
        sizes = hyper.transformer(metadata)
        base = metadata.float("rope.freq_base", 10000.0)
        return cls(sizes, hyper.rope(metadata, sizes.key_size, base, RopeType.NORMAL))


class Attention(Module):
    """Every token looks at all earlier ones; several query heads share one key and value head."""

    def __init__(self, sizes: hyper.Transformer) -> None:
        self.sizes = sizes
        self.qkv = Projections(
            ("attn_q", "attn_k", "attn_v"), sizes.hidden, sizes.projections, bias="optional"
        )
        self.output = Linear(
            "attn_output|attn_out", sizes.heads * sizes.value_size, sizes.hidden, bias="optional"
        )

    def __call__(self, x: Tensor, rotate: Transform, history: LayerHistory) -> Tensor:
        query, key, value = self.qkv(x)
        query = rotate(split_heads(query, self.sizes.heads))
        key = rotate(split_heads(key, self.sizes.kv_heads))
        value = split_heads(value, self.sizes.kv_heads)
        return self.output(attention(query, key, value, 1 / math.sqrt(self.sizes.key_size), history))


class FeedForward(Module):
    """silu(W_gate x) * W_up x, back through W_down; Shazeer, arXiv:2002.05202."""

    def __init__(self, sizes: hyper.Transformer) -> None:
        width = sizes.feed_forward
        self.gate_up = Projections(("ffn_gate", "ffn_up"), sizes.hidden, (width, width), bias="optional")
        self.down = Linear("ffn_down", width, sizes.hidden, bias="optional")

    def __call__(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x)
        return self.down(gate.swiglu(up))


class Layer(Module):
    """Attention and feed-forward, each of the normalised state and added to it."""

    def __init__(self, index: int, sizes: hyper.Transformer) -> None:
        self.scope = f"blk.{index}"
        self.attention_norm = RMSNorm("attn_norm", sizes.hidden, sizes.eps)
        self.attention = Attention(sizes)
        self.feed_forward_norm = RMSNorm("ffn_norm", sizes.hidden, sizes.eps)
        self.feed_forward = FeedForward(sizes)

    def __call__(
        self, x: Tensor, rotate: Transform, history: LayerHistory, select: Transform | None
    ) -> Tensor:
        attended = self.attention(self.attention_norm(x), rotate, history)
        if select is not None:
            x, attended = select(x), select(attended)
        x = x + attended
        return x + self.feed_forward(self.feed_forward_norm(x))


class Llama(Decoder):
    """The decoder."""

    # Frequencies that some old converters stored; they follow from the metadata.
    ignored = ("blk.*.attn_rot_embd.weight", "blk.*.attention.rotary_emb.inv_freq")

    def __init__(self, metadata: Metadata) -> None:
        self.hyperparameters = Hyperparameters.of(metadata)
        sizes = self.hyperparameters.sizes
        vocabulary = hyper.vocabulary(metadata)
        self.embedding = Embedding("token_embd", vocabulary, sizes.hidden)
        self.layers = [Layer(index, sizes) for index in range(sizes.layers)]
        self.norm = RMSNorm("output_norm", sizes.hidden, sizes.eps)
        self.output = Linear("output|token_embd", sizes.hidden, vocabulary)
        self.frequency_factors = Weight(
            "rope_freqs.weight", (self.hyperparameters.rope.dimensions // 2,), optional=True
        )

    def forward(self, step: Step) -> Tensor:
        return self.output(self.hidden(step))

    def hidden(self, step: Step) -> Tensor:
        x = self.embedding(step.tokens)
        rotate = partial(self._rotated, positions=step.positions)
        for index, layer in enumerate(self.layers):
            last = index == len(self.layers) - 1
            x = layer(x, rotate, step.history.layer(index), step.select if last else None)
        return self.norm(x)

    def _rotated(self, heads: Tensor, positions: Tensor) -> Tensor:
        return heads.rope(positions, self.hyperparameters.rope, self.frequency_factors.maybe)

    def cache(self) -> Cache:
        return Causal(self.shift)

    def shift(self, layer: int, key: Tensor, offsets: Tensor) -> Tensor:
        return key.rope(offsets, hyper.turning(self.hyperparameters.rope), self.frequency_factors.maybe)
