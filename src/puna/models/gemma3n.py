"""Gemma 3n, text: several streams of states of which one is computed, and inputs of each layer's own.

Google, "Gemma 3n", 2025. The streams are AltUp's (Baykal et al., arXiv:2301.13310), the path of low rank
beside attention is LAuReL's (Menghani et al., arXiv:2411.07501). The last layers look at the keys and values
of earlier ones. Files of two origins are read: llama.cpp's names come first, Ollama's second.
"""

import math
from dataclasses import dataclass

from puna.errors import GGUFError
from puna.gguf import Metadata
from puna.ml import RopeParameters, RopeType, Tensor
from puna.ml.nn import (
    Embedding,
    FeedForward,
    LayerHistory,
    Linear,
    Module,
    Projections,
    RMSNorm,
    Weight,
    merge_heads,
    split_heads,
)
from puna.models import hyper
from puna.models.base import Step
from puna.models.stack import Rotation, Stack, softcapped

# Below this, the mean square of a stream is not used to bring it to another's length.
_LEAST = 1e-5


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Sizes, and what each layer does.

    Attributes:
        streams: how many.
        active: which of them is computed.
        input: width of each layer's own input.
        local: for each layer, whether it has the window.
        sources: for each layer, the one whose keys and values it looks at.
        sparsity: for each layer, how many deviations above their mean gates must be; 0 for all gates.
    """

    sizes: hyper.Transformer
    streams: int
    active: int
    input: int
    local: tuple[bool, ...]
    sources: tuple[int, ...]
    sparsity: tuple[float, ...]

    @classmethod
    def of(cls, metadata: Metadata) -> "Hyperparameters":
        """Reads them. Raises GGUFError, see `Model`."""
        sizes = hyper.transformer(metadata, eps=1e-6)
        local = hyper.local_layers(metadata, sizes.layers, 5)
        streams, active = hyper.count(metadata, "altup.num_inputs", 4), metadata.uint("altup.active_idx", 0)
        if streams < 2 or active >= streams:
            raise GGUFError(f"{metadata.source}: of {streams} streams, number {active} cannot be computed")
        return cls(
            sizes,
            streams,
            active,
            hyper.count(metadata, "embedding_length_per_layer_input"),
            local,
            _sources(metadata, local),
            _sparsity(metadata, sizes.layers),
        )


def _sources(metadata: Metadata, local: tuple[bool, ...]) -> tuple[int, ...]:
    """The first layers look at their own keys and values, the others at those of the last of their kind."""
    own = len(local) - metadata.uint("attention.shared_kv_layers", max(len(local) - 20, 0))
    last = {kind: index for index, kind in enumerate(local[: max(own, 0)])}
    if not set(local) <= last.keys():
        raise GGUFError(f"{metadata.source}: {own} layers cannot have the keys of all {len(local)}")
    return tuple(index if index < own else last[kind] for index, kind in enumerate(local))


def _sparsity(metadata: Metadata, layers: int) -> tuple[float, ...]:
    scales = metadata.floats("activation_sparsity_scale", [0.0] * layers)
    if len(scales) < layers or any(math.isnan(scale) or scale == math.inf for scale in scales):
        raise GGUFError(f"{metadata.source}: activation_sparsity_scale makes no sense for {layers} layers")
    # Layers that use all gates have the deviation that all are above.
    return tuple(scale if scale > -math.inf else 0.0 for scale in scales[:layers])


class Kept:
    """A layer's history, and what its layer saw of it, for later layers that look at the same.

    Attributes:
        seen: what `LayerHistory.update` gave, from then on.
    """

    seen: tuple[Tensor, Tensor, Tensor]

    def __init__(self, history: LayerHistory) -> None:
        self.history = history


class Attention(Module):
    """Grouped-query attention of normalised queries, keys and values, or of queries alone."""

    def __init__(self, sizes: hyper.Transformer, *, own: bool) -> None:
        self.sizes = sizes
        names = ("attn_q", "attn_k", "attn_v") if own else ("attn_q",)
        self.projections = Projections(names, sizes.hidden, sizes.projections[: len(names)])
        self.query_norm = RMSNorm("attn_q_norm", sizes.key_size, sizes.eps)
        self.key_norm = RMSNorm("attn_k_norm", sizes.key_size, sizes.eps) if own else None
        self.output = Linear("attn_output|attn_out", sizes.heads * sizes.value_size, sizes.hidden)

    def __call__(self, x: Tensor, rotate: Rotation, kept: Kept) -> Tensor:
        query, *own = self.projections(x)
        query = rotate(self.query_norm(split_heads(query, self.sizes.heads)))
        if self.key_norm is not None:
            key, value = (split_heads(part, self.sizes.kv_heads) for part in own)
            value = value.rms_norm(None, self.sizes.eps)
            kept.seen = kept.history.update(rotate(self.key_norm(key)), value)
        return self.output(merge_heads(query.scaled_dot_product_attention(*kept.seen, 1.0)))


class Streams(Module):
    """Foretells every stream from all of them, and corrects them when one is computed."""

    def __init__(self, parameters: Hyperparameters) -> None:
        self.parameters = parameters
        hidden, count = parameters.sizes.hidden, parameters.streams
        self.router_norm = RMSNorm("altup_router_norm", hidden, parameters.sizes.eps)
        self.router = Linear("altup_router", hidden, count)
        self.prediction = Linear("altup_predict_coef", count, count * count)
        self.correction = Linear("altup_correct_coef", count, count)

    def predict(self, x: Tensor) -> Tensor:
        """x (tokens, streams, hidden) → the same."""
        count = self.parameters.streams
        mixed = self.prediction(self._route(self.active(x))).reshape(x.dim(0), count, count)
        return x.permute(0, 2, 1).contiguous().mul_mat(mixed) + x

    def correct(self, predicted: Tensor, computed: Tensor) -> Tensor:
        """Predicted (tokens, streams, hidden), computed (tokens, hidden) → like predicted."""
        tokens, count, hidden = predicted.shape
        shares = self.correction(self._route(computed)).scale(1.0, 1.0).reshape(tokens, count, 1)
        news = (computed - self.active(predicted)).reshape(tokens, 1, hidden)
        return news.repeat(1, count) * shares + predicted

    def active(self, x: Tensor) -> Tensor:
        """The stream that is computed, (tokens, hidden)."""
        return _stream(x, self.parameters.active)

    def _route(self, x: Tensor) -> Tensor:
        return self.router(self.router_norm(x).scale(1 / self.parameters.sizes.hidden)).tanh()


class LowRank(Module):
    """x + norm(W_r W_l x)."""

    def __init__(self, sizes: hyper.Transformer) -> None:
        # Files do not tell the rank otherwise.
        self.left = Linear("laurel_l", sizes.hidden, None)
        self.right = Weight("laurel_r.weight", (sizes.hidden, None))
        self.norm = RMSNorm("laurel_post_norm", sizes.hidden, sizes.eps)

    def __call__(self, x: Tensor) -> Tensor:
        return x + self.norm(self.right.tensor.mul_mat(self.left(x)))


class Layer(Module):
    """Attention and feed-forward on one stream; then the layer's own input moves the others."""

    def __init__(self, index: int, parameters: Hyperparameters) -> None:
        self.scope = f"blk.{index}"
        sizes = parameters.sizes
        width, eps = sizes.hidden, sizes.eps
        self.streams = Streams(parameters)
        self.attention_norm = RMSNorm("attn_norm", width, eps)
        self.low_rank = LowRank(sizes)
        self.attention = Attention(sizes, own=parameters.sources[index] == index)
        self.attention_post_norm = RMSNorm("post_attention_norm", width, eps)
        self.feed_forward_norm = RMSNorm("ffn_norm", width, eps)
        act = _Gate(parameters.sparsity[index])
        self.feed_forward = FeedForward(width, sizes.feed_forward, act=act, bias=False)
        self.feed_forward_post_norm = RMSNorm("post_ffw_norm", width, eps)
        self.correction_scale = Weight("altup_correct_scale.weight", (width,))
        self.gate = Linear("inp_gate", width, parameters.input)
        self.projection = Linear("proj", parameters.input, width)
        self.norm = RMSNorm("post_norm", width, eps)

    def __call__(self, x: Tensor, own: Tensor, rotate: Rotation, kept: Kept) -> Tensor:
        """x (tokens, streams, hidden), own (tokens, input) → like x."""
        predicted = self.streams.predict(x)
        corrected = self.streams.correct(
            predicted, self._computed(self.streams.active(predicted), rotate, kept)
        )
        gated = self.gate(self.streams.active(corrected) * self.correction_scale.tensor).geglu(own)
        step = self.norm(self.projection(gated))
        tokens, count, hidden = x.shape
        others = corrected.slice(1, 1, count) + step.reshape(tokens, 1, hidden)
        return corrected.slice(1, 0, 1).concat(others, 1)

    def _computed(self, x: Tensor, rotate: Rotation, kept: Kept) -> Tensor:
        normalised = self.attention_norm(x)
        attended = x + self.attention_post_norm(self.attention(normalised, rotate, kept))
        x = (attended + self.low_rank(normalised)).scale(1 / math.sqrt(2))
        return x + self.feed_forward_post_norm(self.feed_forward(self.feed_forward_norm(x)))


@dataclass(frozen=True, slots=True)
class _Gate:
    """gelu(gate) * up, where gates that are not far enough above their mean count as none."""

    deviations: float

    def __call__(self, gate: Tensor, up: Tensor) -> Tensor:
        if self.deviations:
            gate = (gate - gate.stddev().scale(self.deviations) - gate.mean()).relu()
        return gate.geglu(up)


class LayerInputs(Module):
    """What each layer is told of a token, by a table and by the token's vector."""

    def __init__(self, metadata: Metadata, parameters: Hyperparameters) -> None:
        self.layers, self.width = parameters.sizes.layers, parameters.input
        hidden, width = parameters.sizes.hidden, self.layers * self.width
        self.embedding = Embedding("per_layer_token_embd", hyper.vocabulary(metadata), width)
        self.projection = Linear("per_layer_model_proj", hidden, width)
        self.norm = RMSNorm("per_layer_proj_norm", self.width, parameters.sizes.eps)

    def __call__(self, tokens: Tensor, x: Tensor) -> Tensor:
        """Tokens I32 (tokens,), x (tokens, hidden) → (tokens, layers, input)."""
        shape = (tokens.dim(0), self.layers, self.width)
        told = self.embedding(tokens).scale(math.sqrt(self.width)).reshape(*shape)
        made = self.norm(self.projection(x).scale(x.dim(1) ** -0.5).reshape(*shape))
        return (made + told).scale(1 / math.sqrt(2))


class Gemma3n(Stack):
    """The decoder."""

    def __init__(self, metadata: Metadata) -> None:
        self.parameters = parameters = Hyperparameters.of(metadata)
        sizes = parameters.sizes
        base = metadata.float("rope.freq_base", 1000000.0)
        rope = hyper.rope(metadata, sizes.key_size, base, RopeType.NEOX)
        base = metadata.float("rope.freq_base_swa", metadata.float("rope.freq_base_local", 10000.0))
        self.local_rope = RopeParameters(rope.dimensions, base, type=RopeType.NEOX)
        self.final_softcap = metadata.float("final_logit_softcapping", 30.0)
        window = hyper.count(metadata, "attention.sliding_window")
        super().__init__(metadata, sizes, rope, [], window=window, local=parameters.local)
        self.blocks = [Layer(index, parameters) for index in range(sizes.layers)]
        self.inputs = LayerInputs(metadata, parameters)
        square = (parameters.streams - 1, sizes.hidden, sizes.hidden)
        self.spread, self.gather = (
            Weight("altup_proj.weight", square),
            Weight("altup_unembd_proj.weight", square),
        )
        # Files have these matrices for every layer, also where they are not used.
        others = [index for index, source in enumerate(parameters.sources) if source != index]
        parts = ("attn_k", "attn_v", "attn_k_norm")
        self.ignored = tuple(f"blk.{index}.{part}.weight" for index in others for part in parts)

    def embedded(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens).scale(math.sqrt(self.sizes.hidden))

    def hidden(self, step: Step) -> Tensor:
        first = self.embedded(step.tokens)
        inputs = self.inputs(step.tokens, first)
        kept = [Kept(step.history.layer(index)) for index in range(self.sizes.layers)]
        x = self._spread(first)
        for index, layer in enumerate(self.blocks):
            own = _stream(inputs, index)
            x = layer(x, own, self.rotation(step, index), kept[self.parameters.sources[index]])
        return self.norm(self._gathered(x, step))

    def _spread(self, first: Tensor) -> Tensor:
        """(tokens, hidden) → (tokens, streams, hidden)."""
        tokens, hidden = first.shape
        copies = first.reshape(1, tokens, hidden).repeat(0, self.parameters.streams - 1)
        others = _as_long_as(self.spread.tensor.mul_mat(copies), first)
        return first.reshape(tokens, 1, hidden).concat(others.permute(1, 0, 2).contiguous(), 1)

    def _gathered(self, x: Tensor, step: Step) -> Tensor:
        """(tokens, streams, hidden) → (outputs, hidden)."""
        tokens, count, hidden = x.shape
        x = step.select(x.reshape(tokens, count * hidden)).reshape(-1, count, hidden)
        total = first = _stream(x, 0)
        others = self.gather.tensor.mul_mat(x.slice(1, 1, count).permute(1, 0, 2).contiguous())
        for part in _as_long_as(others, first).chunk(0, 1):
            total = total + part.reshape(*first.shape)
        return total.scale(1 / count)

    def logits(self, x: Tensor) -> Tensor:
        return softcapped(x, self.final_softcap)

    def rope_of(self, layer: int) -> RopeParameters:
        return self.local_rope if self.local[layer] else self.rope


def _stream(x: Tensor, index: int) -> Tensor:
    """(tokens, streams, width) → (tokens, width)."""
    tokens, _, width = x.shape
    return x.slice(1, index, index + 1).contiguous(tokens, width)


def _as_long_as(others: Tensor, first: Tensor) -> Tensor:
    """Others (count, tokens, hidden), each scaled to the length of first (tokens, hidden)."""
    wanted = first.sqr().mean().sqrt().reshape(1, first.dim(0), 1)
    return others * wanted / others.sqr().mean().clamp(_LEAST, math.inf).sqrt()
