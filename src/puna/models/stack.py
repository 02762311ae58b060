"""The build that most decoders share; what each does within its layers is in its own file."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from puna.gguf import Metadata
from puna.kvcache import Cache, Causal, Composed, SlidingWindow
from puna.ml import RopeParameters, Tensor
from puna.ml.nn import (
    Embedding,
    FusedProjections,
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
Norm = Callable[[str, int, float], Callable[[Tensor], Tensor]]


@dataclass(frozen=True, slots=True)
class Rotation:
    """How a layer encodes the tokens' positions in heads (tokens, heads, d).

    Attributes:
        positions: I32 (tokens * coordinates,), see `Step`.
        parameters: None where positions are not encoded.
        factors: F32 (dimensions / 2,), see `Tensor.rope`.
        temperatures: F32 (tokens, 1, 1), what queries are multiplied with; None for nothing.
        norm: applied to what was rotated.
    """

    positions: Tensor
    parameters: RopeParameters | None
    factors: Tensor | None = None
    temperatures: Tensor | None = None
    norm: Transform | None = None

    def __call__(self, heads: Tensor) -> Tensor:
        if self.parameters is not None:
            heads = heads.rope(self.positions, self.parameters, self.factors)
        return heads if self.norm is None else self.norm(heads)

    def query(self, heads: Tensor) -> Tensor:
        """The same for queries."""
        rotated = self(heads)
        return rotated if self.temperatures is None else rotated * self.temperatures


class Block(Module):
    """One layer."""

    @abstractmethod
    def __call__(
        self, x: Tensor, rotate: Rotation, history: LayerHistory, select: Transform | None
    ) -> Tensor:
        """The state (tokens, hidden) after the layer.

        Args:
            x: the state before.
            rotate: encodes the tokens' positions.
            history: keys and values of the tokens before.
            select: keeps the wanted rows, in the last layer; applied once attention is done.
        """


class Attention(Module):
    """Every token looks at earlier ones; several query heads share one key and value head."""

    def __init__(
        self,
        sizes: hyper.Transformer,
        *,
        fused: bool = False,
        head_norms: bool = False,
        scale: float | None = None,
        scale_queries: bool = False,
        logit_softcap: float = 0.0,
        sinks: bool = False,
    ) -> None:
        """Declares the projections.

        Args:
            fused: the file has one matrix for queries, keys and values.
            head_norms: each head's query and key is normalised before it is rotated.
            scale: factor of the scores; 1 / sqrt(d) if None.
            scale_queries: the factor is applied to queries before they are converted to half precision.
            logit_softcap: limit of the scores, 0 for none.
            sinks: each head has one more score, of nothing, see `Tensor.softmax`.
        """
        self.sizes, self.logit_softcap = sizes, logit_softcap
        factor = 1 / math.sqrt(sizes.key_size) if scale is None else scale
        self.query_scale, self.scale = (factor, 1.0) if scale_queries else (1.0, factor)
        self.qkv = _projections(sizes, fused=fused)
        self.query_norm: Transform | None = None
        self.key_norm: Transform | None = None
        if head_norms:
            self.query_norm = RMSNorm("attn_q_norm", sizes.key_size, sizes.eps)
            self.key_norm = RMSNorm("attn_k_norm", sizes.key_size, sizes.eps)
        self.sinks = Weight("attn_sinks.weight|attn_sinks", (sizes.heads,)) if sinks else None
        self.output = Linear(
            "attn_output|attn_out", sizes.heads * sizes.value_size, sizes.hidden, bias="optional"
        )

    def __call__(self, x: Tensor, rotate: Rotation, history: LayerHistory) -> Tensor:
        query, key, value = self.qkv(x)
        query, key = split_heads(query, self.sizes.heads), split_heads(key, self.sizes.kv_heads)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        value = split_heads(value, self.sizes.kv_heads)
        query, key = _scaled(rotate.query(query), self.query_scale), rotate(key)
        sinks = None if self.sinks is None else self.sinks.tensor
        seen = attention(
            query, key, value, self.scale, history, sinks=sinks, logit_softcap=self.logit_softcap
        )
        return self.output(seen)


def _projections(sizes: hyper.Transformer, *, fused: bool) -> Projections | FusedProjections:
    if fused:
        return FusedProjections("attn_qkv", sizes.hidden, sizes.projections, bias="optional")
    return Projections(("attn_q", "attn_k", "attn_v"), sizes.hidden, sizes.projections, bias="optional")


Attend = Callable[[Tensor, Rotation, LayerHistory], Tensor]


class PreNormBlock(Block):
    """Attention and feed-forward, each of the normalised state and added to it."""

    def __init__(
        self,
        index: int,
        sizes: hyper.Transformer,
        attention: Attend,
        feed_forward: Sequence[Callable[[Tensor], Tensor]],
        *,
        norm: Norm = RMSNorm,
        second_norm: str = "ffn_norm",
        residual_scale: float = 1.0,
    ) -> None:
        """Makes layer number `index`.

        Args:
            feed_forward: modules whose results are added up.
            norm: the kind of both norms.
            second_norm: the name of that before the feed-forward network.
            residual_scale: factor of what is added to the state.
        """
        self.scope = f"blk.{index}"
        self.attention_norm = norm("attn_norm", sizes.hidden, sizes.eps)
        self.attention = attention
        self.feed_forward_norm = norm(second_norm, sizes.hidden, sizes.eps)
        self.feed_forward = list(feed_forward)
        self.residual_scale = residual_scale

    def __call__(
        self, x: Tensor, rotate: Rotation, history: LayerHistory, select: Transform | None
    ) -> Tensor:
        attended = self.attention(self.attention_norm(x), rotate, history)
        if select is not None:
            x, attended = select(x), select(attended)
        x = x + _scaled(attended, self.residual_scale)
        return x + _scaled(self._fed_forward(self.feed_forward_norm(x)), self.residual_scale)

    def _fed_forward(self, x: Tensor) -> Tensor:
        result = self.feed_forward[0](x)
        for part in self.feed_forward[1:]:
            result = result + part(x)
        return result


def _scaled(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else x.scale(factor)


class SandwichBlock(Block):
    """Attention and feed-forward, each normalised before and after, and added to the state."""

    def __init__(
        self,
        index: int,
        sizes: hyper.Transformer,
        attention: Attention,
        feed_forward: Callable[[Tensor], Tensor],
    ) -> None:
        """Makes layer number `index`."""
        self.scope = f"blk.{index}"
        width, eps = sizes.hidden, sizes.eps
        self.attention_norm = RMSNorm("attn_norm", width, eps)
        self.attention = attention
        self.attention_post_norm = RMSNorm("post_attention_norm", width, eps)
        self.feed_forward_norm = RMSNorm("ffn_norm", width, eps)
        self.feed_forward = feed_forward
        self.feed_forward_post_norm = RMSNorm("post_ffw_norm", width, eps)

    def __call__(
        self, x: Tensor, rotate: Rotation, history: LayerHistory, select: Transform | None
    ) -> Tensor:
        attended = self.attention(self.attention_norm(x), rotate, history)
        if select is not None:
            x, attended = select(x), select(attended)
        x = x + self.attention_post_norm(attended)
        return x + self.feed_forward_post_norm(self.feed_forward(self.feed_forward_norm(x)))


def softcapped(x: Tensor, limit: float) -> Tensor:
    """x within -limit and limit, bent towards them; x itself where the limit is 0."""
    return x.scale(1 / limit).tanh().scale(limit) if limit else x


class Stack(Decoder):
    """A table of vectors, layers that rotate queries and keys, a norm, a table of outputs.

    Attributes:
        sizes: of all layers.
        rope: how positions are encoded.
        window: tokens that the local layers see.
        local: for each layer, whether it has the window.
    """

    def __init__(
        self,
        metadata: Metadata,
        sizes: hyper.Transformer,
        rope: RopeParameters,
        layers: Sequence[Block],
        *,
        norm: Norm = RMSNorm,
        window: int = 0,
        local: Sequence[bool] = (),
    ) -> None:
        self.sizes, self.rope, self.coordinates = sizes, rope, rope.type.positions
        self.window, self.local = window, tuple(local) or (False,) * sizes.layers
        vocabulary = hyper.vocabulary(metadata)
        self.embedding = Embedding("token_embd", vocabulary, sizes.hidden)
        self.layers = list(layers)
        # The second name is that of LFM2.
        self.norm = norm("output_norm|token_embd_norm", sizes.hidden, sizes.eps)
        self.output = Linear("output|token_embd", sizes.hidden, vocabulary, bias="optional")
        self.frequency_factors = Weight("rope_freqs.weight", (rope.dimensions // 2,), optional=True)

    def forward(self, step: Step) -> Tensor:
        return self.logits(self.output(self.hidden(step)))

    def hidden(self, step: Step) -> Tensor:
        x = step.pictured(self.embedded(step.tokens))
        for index, layer in enumerate(self.layers):
            last = index == len(self.layers) - 1
            select = step.select if last else None
            x = layer(x, self.rotation(step, index), step.history.layer(index), select)
        return self.norm(x)

    def embedded(self, tokens: Tensor) -> Tensor:
        """The state before the first layer."""
        return self.embedding(tokens)

    def logits(self, x: Tensor) -> Tensor:
        """What the outputs become."""
        return x

    def rope_of(self, layer: int) -> RopeParameters | None:
        """How a layer encodes positions; None where it does not."""
        return self.rope

    def factors(self) -> Tensor | None:
        """What frequencies are divided by, see `Tensor.rope`."""
        return self.frequency_factors.maybe

    def rotation(self, step: Step, layer: int) -> Rotation:
        """How a layer encodes the positions of a step's tokens."""
        temperatures = step.temperatures if self.is_tempered(layer) else None
        return Rotation(step.positions, self.rope_of(layer), self.factors(), temperatures)

    def is_tempered(self, layer: int) -> bool:
        """Whether a layer multiplies queries with what `temperatures` says."""
        return False

    def cache(self) -> Cache:
        if not any(self.local):
            return Causal(self.shift)
        members = (SlidingWindow(self.window, self.shift), Causal(self.shift))
        return Composed(members, [0 if local else 1 for local in self.local])

    def shift(self, layer: int, key: Tensor, offsets: Tensor) -> Tensor:
        rope = self.rope_of(layer)
        return key if rope is None else key.rope(offsets, hyper.turning(rope), self.factors())
