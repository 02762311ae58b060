"""DeepSeek V2 and V3: keys and values of all heads are kept as one short vector, experts are in groups.

DeepSeek-AI, arXiv:2405.04434 and arXiv:2412.19437. Older files have the matrix that makes keys and values of
the vector; in newer ones it is in two parts, which are multiplied with queries and results instead, so that
the cache holds nothing but the vector.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from puna.errors import GGUFError, UnsupportedModel
from puna.gguf import Metadata
from puna.ml import RopeParameters, RopeType, Tensor
from puna.ml.nn import (
    FeedForward,
    LayerHistory,
    Linear,
    MixtureOfExperts,
    Module,
    Projections,
    RMSNorm,
    Weight,
    attention,
    split_heads,
)
from puna.models import hyper
from puna.models.stack import PreNormBlock, Rotation, Stack


@dataclass(frozen=True, slots=True)
class Latent:
    """The sizes of attention.

    Attributes:
        rank: width of the vector that is kept of each token, its rotated part apart.
        query_rank: width of that which queries are made of; 0 where they are made of the state.
        plain: width of a head's query and key as far as it is not rotated.
        rotated: width of the rest, which keys of all heads have in common.
        value: width of a head's value.
        absorbed: the file has the matrix of keys and values in two parts.
    """

    rank: int
    query_rank: int
    plain: int
    rotated: int
    value: int
    absorbed: bool

    @classmethod
    def of(cls, metadata: Metadata, sizes: hyper.Transformer) -> "Latent":
        """Reads them. Raises GGUFError where they do not go together."""
        absorbed = metadata.full_key("attention.key_length_mla") in metadata
        rotated = hyper.count(metadata, "rope.dimension_count")
        key = hyper.count(metadata, "attention.key_length_mla") if absorbed else sizes.key_size
        value = hyper.count(metadata, "attention.value_length_mla") if absorbed else sizes.value_size
        if rotated >= key:
            raise GGUFError(f"{metadata.source}: keys of width {key} cannot have {rotated} rotated elements")
        rank = hyper.count(metadata, "attention.kv_lora_rank")
        query_rank = metadata.uint("attention.q_lora_rank", 0)
        return cls(rank, query_rank, key - rotated, rotated, value, absorbed)


class Attention(Module):
    """Multi-head latent attention. Rotated parts come first, where `Stack.shift` looks for them."""

    def __init__(self, sizes: hyper.Transformer, latent: Latent, scale: float) -> None:
        self.heads, self.latent, self.scale = sizes.heads, latent, scale
        width = latent.rank + latent.rotated
        queries = sizes.heads * (latent.plain + latent.rotated)
        first = ("attn_q_a", latent.query_rank) if latent.query_rank else ("attn_q", queries)
        self.down = Projections((first[0], "attn_kv_a_mqa"), sizes.hidden, (first[1], width))
        self.query_norm, self.query_up = None, None
        if latent.query_rank:
            self.query_norm = RMSNorm("attn_q_a_norm", latent.query_rank, sizes.eps)
            self.query_up = Linear("attn_q_b", latent.query_rank, queries)
        self.norm = RMSNorm("attn_kv_a_norm", latent.rank, sizes.eps)
        self.output = Linear("attn_output|attn_out", sizes.heads * latent.value, sizes.hidden)

    def __call__(self, x: Tensor, rotate: Rotation, history: LayerHistory) -> Tensor:
        query, kept = self.down(x)
        if self.query_norm is not None and self.query_up is not None:
            query = self.query_up(self.query_norm(query))
        plain, rotated = split_heads(query, self.heads).chunk_sections(
            -1, self.latent.plain, self.latent.rotated
        )
        vector, shared = kept.chunk_sections(-1, self.latent.rank, self.latent.rotated)
        vector, shared = self.norm(vector), rotate(split_heads(shared, 1))
        return self.output(self.seen(plain, rotate(rotated), vector, shared, history))

    @abstractmethod
    def seen(
        self, plain: Tensor, rotated: Tensor, vector: Tensor, shared: Tensor, history: LayerHistory
    ) -> Tensor:
        """What the tokens see, (tokens, heads * value).

        Args:
            plain: the part of the queries that is not rotated, (tokens, heads, plain).
            rotated: the other, (tokens, heads, rotated).
            vector: what is kept of the tokens, (tokens, rank).
            shared: the rotated part of the keys, (tokens, 1, rotated).
        """


class ExpandedAttention(Attention):
    """Each head's keys and values are made and kept."""

    def __init__(self, sizes: hyper.Transformer, latent: Latent, scale: float) -> None:
        super().__init__(sizes, latent, scale)
        self.up = Linear("attn_kv_b", latent.rank, sizes.heads * (latent.plain + latent.value))

    def seen(
        self, plain: Tensor, rotated: Tensor, vector: Tensor, shared: Tensor, history: LayerHistory
    ) -> Tensor:
        pairs = split_heads(self.up(vector), self.heads)
        key, value = pairs.chunk_sections(-1, self.latent.plain, self.latent.value)
        key = shared.repeat(1, self.heads).concat(key, -1)
        return attention(rotated.concat(plain, -1), key, value.contiguous(), self.scale, history)


class AbsorbedAttention(Attention):
    """Queries are turned to the vector that is kept, which is key and value of all heads."""

    def __init__(self, sizes: hyper.Transformer, latent: Latent, scale: float) -> None:
        super().__init__(sizes, latent, scale)
        self.key_up = Weight("attn_k_b.weight", (sizes.heads, latent.rank, latent.plain))
        self.value_up = Weight("attn_v_b.weight", (sizes.heads, latent.value, latent.rank))

    def seen(
        self, plain: Tensor, rotated: Tensor, vector: Tensor, shared: Tensor, history: LayerHistory
    ) -> Tensor:
        turned = _by_head(self.key_up, plain)
        value = split_heads(vector, 1)
        query, key = rotated.concat(turned, -1), shared.concat(value, -1)
        seen = split_heads(attention(query, key, value, self.scale, history), self.heads)
        tokens = seen.dim(0)
        return _by_head(self.value_up, seen).contiguous(tokens, self.heads * self.latent.value)


def _by_head(weight: Weight, x: Tensor) -> Tensor:
    """x (tokens, heads, inputs), multiplied with each head's matrix → (tokens, heads, outputs)."""
    return weight.tensor.mul_mat(x.permute(1, 0, 2)).permute(1, 0, 2)


class DeepSeek2(Stack):
    """The decoder."""

    def __init__(self, metadata: Metadata) -> None:
        for key in ("nextn_predict_layers", "attention.temperature_scale"):
            if metadata.full_key(key) in metadata:
                raise UnsupportedModel(f"{metadata.source}: DeepSeek with {key} is not supported")
        sizes = hyper.transformer(metadata)
        latent = Latent.of(metadata, sizes)
        rope, scale = _rope(metadata, latent)
        kind = AbsorbedAttention if latent.absorbed else ExpandedAttention
        layers = [
            PreNormBlock(index, sizes, kind(sizes, latent, scale), _feed_forward(index, metadata, sizes))
            for index in range(sizes.layers)
        ]
        super().__init__(metadata, sizes, rope, layers)


def _rope(metadata: Metadata, latent: Latent) -> tuple[RopeParameters, float]:
    """How positions are encoded, and the factor of the scores."""
    base = metadata.float("rope.freq_base", 10000.0)
    rope = hyper.rope(metadata, latent.rotated, base, RopeType.NORMAL)
    scale = 1 / math.sqrt(latent.plain + latent.rotated)
    # A tenth of what the paper names: here the scores grow with the context, not the rotated vectors.
    growth = metadata.float("rope.scaling.yarn_log_multiplier", 0.0)
    if not growth or not rope.extrapolation:
        return rope, scale
    return hyper.turning(rope), scale * (1 + growth * math.log(max(rope.scale, 1.0))) ** 2


def _feed_forward(
    index: int, metadata: Metadata, sizes: hyper.Transformer
) -> list[Callable[[Tensor], Tensor]]:
    if index < metadata.uint("leading_dense_block_count", 0) or not metadata.uint("expert_count", 0):
        return [FeedForward(sizes.hidden, sizes.feed_forward, bias=False)]
    routing = hyper.mixture(metadata, normalise=False)
    width = hyper.count(metadata, "expert_feed_forward_length")
    experts = MixtureOfExperts(routing, sizes.hidden, width)
    shared = metadata.uint("expert_shared_count", 0) * width
    return [experts, FeedForward(sizes.hidden, shared, suffix="_shexp", bias=False)] if shared else [experts]
