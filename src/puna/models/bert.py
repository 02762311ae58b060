"""BERT: every token looks at all of its text; learned positions, feed-forward with GELU, norms after each.

Devlin et al., arXiv:1810.04805. NomicBERT (Nussbaum et al., arXiv:2402.01613) differs in rotary positions, a
gated feed-forward, and the lack of biases. Names of tensors and keys are llama.cpp's.
"""

import math
from dataclasses import dataclass
from functools import partial

from puna.errors import UnsupportedModel
from puna.gguf import Metadata
from puna.ml import RopeParameters, RopeType, Tensor
from puna.ml.nn import (
    Embedding,
    FeedForward,
    FusedProjections,
    LayerHistory,
    LayerNorm,
    Linear,
    Module,
    PlainFeedForward,
    Projections,
    Weight,
    attention,
    split_heads,
)
from puna.models import hyper
from puna.models.base import Encoder, Step
from puna.models.stack import Transform


def _gelu_by_tanh(x: Tensor) -> Tensor:
    """x/2 (1 + tanh(x s/2)), with s of x², which is x sigmoid(x s); `Tensor.gelu` may be less exact."""
    factor = math.sqrt(8 / math.pi)
    slope = x.sqr().scale(factor * 0.044715, factor)
    return (x * slope).silu() / slope


# The names of transformers' configurations.
_ACTIVATIONS: dict[str, Transform] = {
    "gelu": lambda x: x.gelu_erf(),
    "gelu_new": _gelu_by_tanh,
    "gelu_pytorch_tanh": _gelu_by_tanh,
    "relu": lambda x: x.relu(),
    "silu": lambda x: x.silu(),
}


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Sizes, and what is between the two matrices of a feed-forward network.

    Attributes:
        positions: how many the model knows.
    """

    sizes: hyper.Transformer
    positions: int
    activation: Transform

    @classmethod
    def of(cls, metadata: Metadata) -> "Hyperparameters":
        """Reads them. Raises GGUFError and UnsupportedModel, see `Model`."""
        if metadata.uint("expert_count", 0) or metadata.uint("moe_every_n_layers", 0):
            raise UnsupportedModel(f"{metadata.source}: BERT with a mixture of experts is not supported")
        if metadata.bool("attention.causal", False):
            raise UnsupportedModel(f"{metadata.source}: BERT with causal attention is not supported")
        name = metadata.string("hidden_activation", "gelu")
        if name not in _ACTIVATIONS:
            raise UnsupportedModel(f"{metadata.source}: the activation {name[:40]!r} is not supported")
        sizes = hyper.transformer(metadata, eps_key="attention.layer_norm_epsilon")
        return cls(sizes, hyper.count(metadata, "context_length"), _ACTIVATIONS[name])


class Attention(Module):
    """Every token looks at every token of its text."""

    def __init__(self, sizes: hyper.Transformer, projections: Projections | FusedProjections) -> None:
        self.sizes = sizes
        self.qkv = projections
        self.output = Linear("attn_output", sizes.heads * sizes.value_size, sizes.hidden, bias="optional")

    def __call__(self, x: Tensor, rotate: Transform, history: LayerHistory) -> Tensor:
        query, key, value = self.qkv(x)
        query = rotate(split_heads(query, self.sizes.heads))
        key = rotate(split_heads(key, self.sizes.kv_heads))
        value = split_heads(value, self.sizes.kv_heads)
        return self.output(attention(query, key, value, 1 / math.sqrt(self.sizes.key_size), history))


class Layer(Module):
    """Attention and feed-forward, each added to the state, which is then normalised."""

    def __init__(
        self, index: int, attention: Attention, feed_forward: FeedForward | PlainFeedForward
    ) -> None:
        self.scope = f"blk.{index}"
        width, eps = attention.sizes.hidden, attention.sizes.eps
        self.attention = attention
        self.attention_norm = LayerNorm("attn_output_norm", width, eps)
        self.feed_forward = feed_forward
        self.output_norm = LayerNorm("layer_output_norm", width, eps)

    def __call__(
        self, x: Tensor, rotate: Transform, history: LayerHistory, select: Transform | None
    ) -> Tensor:
        attended = self.attention(x, rotate, history)
        if select is not None:
            x, attended = select(x), select(attended)
        x = self.attention_norm(x + attended)
        return self.output_norm(x + self.feed_forward(x))


class Head(Module):
    """Scores of a text by its first token's state: W_output tanh(W x), or without W where there is none."""

    def __init__(self, hidden: int) -> None:
        self.weight = Weight("cls.weight", (hidden, hidden), optional=True)
        self.bias = Weight("cls.bias", (hidden,), optional=True)
        self.output = Weight("cls.output.weight", (None, hidden), optional=True)
        self.output_bias = Weight("cls.output.bias", (None,), optional=True)

    def __call__(self, x: Tensor) -> Tensor | None:
        if self.output.maybe is None:
            return None
        if self.weight.maybe is not None:
            x = _plus(self.weight.maybe.mul_mat(x), self.bias).tanh()
        return _plus(self.output.maybe.mul_mat(x), self.output_bias)


def _plus(x: Tensor, bias: Weight) -> Tensor:
    return x if bias.maybe is None else x + bias.maybe


class _Stack(Encoder):
    """What both kinds have around their layers."""

    # What a pre-trained model guesses by that its text was masked, and by which sentence follows.
    ignored = ("pooler.*",)

    def __init__(self, metadata: Metadata, sizes: hyper.Transformer, layers: list[Layer]) -> None:
        self.embedding = Embedding("token_embd", hyper.vocabulary(metadata), sizes.hidden)
        self.segments = Weight("token_types.weight", (None, sizes.hidden), optional=True, rows=True)
        self.norm = LayerNorm("token_embd_norm", sizes.hidden, sizes.eps)
        self.layers = layers
        self.head = Head(sizes.hidden)

    def hidden(self, step: Step) -> Tensor:
        x = self.embedded(step)
        if self.segments.maybe is not None:
            x = x + self.segments.maybe.rows(step.segments)
        x = self.norm(x)
        rotate = partial(self.rotated, positions=step.positions)
        for index, layer in enumerate(self.layers):
            last = index == len(self.layers) - 1
            x = layer(x, rotate, step.history.layer(index), step.select if last else None)
        return x

    def embedded(self, step: Step) -> Tensor:
        """The tokens' vectors."""
        return self.embedding(step.tokens)

    def rotated(self, heads: Tensor, positions: Tensor) -> Tensor:
        """Queries or keys, turned by their positions where these are told that way."""
        return heads

    @property
    def segment_kinds(self) -> int:
        return 0 if self.segments.maybe is None else self.segments.maybe.dim(0)

    def scores(self, states: Tensor) -> Tensor | None:
        return self.head(states)


class Bert(_Stack):
    """The encoder with learned positions."""

    def __init__(self, metadata: Metadata) -> None:
        parameters = Hyperparameters.of(metadata)
        sizes = parameters.sizes
        layers = [
            Layer(
                index,
                Attention(sizes, _projections(sizes)),
                PlainFeedForward(sizes.hidden, sizes.feed_forward, parameters.activation),
            )
            for index in range(sizes.layers)
        ]
        super().__init__(metadata, sizes, layers)
        self.positions = Embedding("position_embd", parameters.positions, sizes.hidden)

    def embedded(self, step: Step) -> Tensor:
        return self.embedding(step.tokens) + self.positions(step.positions)


def _projections(sizes: hyper.Transformer) -> Projections:
    return Projections(("attn_q", "attn_k", "attn_v"), sizes.hidden, sizes.projections, bias="optional")


class NomicBert(_Stack):
    """The encoder with rotary positions."""

    def __init__(self, metadata: Metadata) -> None:
        sizes = Hyperparameters.of(metadata).sizes
        layers = [
            Layer(
                index,
                Attention(sizes, FusedProjections("attn_qkv", sizes.hidden, sizes.projections)),
                FeedForward(sizes.hidden, sizes.feed_forward, bias=False),
            )
            for index in range(sizes.layers)
        ]
        super().__init__(metadata, sizes, layers)
        base = metadata.float("rope.freq_base", 1000.0)
        self.rope: RopeParameters = hyper.rope(metadata, sizes.key_size, base, RopeType.NEOX)

    def rotated(self, heads: Tensor, positions: Tensor) -> Tensor:
        return heads.rope(positions, self.rope)
