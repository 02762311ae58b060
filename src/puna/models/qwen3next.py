"""Qwen 3 Next and 3.5: gated delta rules in most layers, gated attention in the others.

Qwen Team, "Qwen3-Next" (2025); Yang et al., arXiv:2412.06464.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from puna.errors import GGUFError
from puna.gguf import Metadata
from puna.kvcache import Cache, Causal, Composed, Recurrent
from puna.ml import RopeType, Tensor
from puna.ml.nn import (
    FeedForward,
    LayerHistory,
    Linear,
    MixtureOfExperts,
    Module,
    Projections,
    RMSNorm,
    SharedExpert,
    Weight,
    attention,
    causal_convolution,
    gated_delta_rule,
    split_heads,
)
from puna.models import hyper
from puna.models.stack import PreNormBlock, Rotation, Stack

# Added to the squared lengths of queries and keys.
_LENGTH_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class DeltaSizes:
    """The sizes of delta rules.

    Attributes:
        key_heads: of queries and keys; divides `heads`.
        heads: of values.
        size: width of a head.
        taps: of the convolutions before.
    """

    key_heads: int
    heads: int
    size: int
    taps: int

    @staticmethod
    def of(metadata: Metadata) -> "DeltaSizes":
        """Those that the metadata states. Raises GGUFError: they do not go together."""
        sizes = DeltaSizes(
            hyper.count(metadata, "ssm.group_count"),
            hyper.count(metadata, "ssm.time_step_rank"),
            hyper.count(metadata, "ssm.state_size"),
            hyper.count(metadata, "ssm.conv_kernel"),
        )
        if sizes.heads % sizes.key_heads or sizes.values != hyper.count(metadata, "ssm.inner_size"):
            raise GGUFError(
                f"{metadata.source}: {sizes.heads} heads of {sizes.size} values cannot share "
                f"{sizes.key_heads} of keys, or are not as wide as ssm.inner_size"
            )
        if sizes.taps < 2:
            raise GGUFError(f"{metadata.source}: convolutions of one tap look at nothing before a token")
        return sizes

    @property
    def keys(self) -> int:
        """The width of all heads' keys."""
        return self.key_heads * self.size

    @property
    def values(self) -> int:
        """The width of all heads' values."""
        return self.heads * self.size

    @property
    def channels(self) -> int:
        """The width of what is convolved: queries, keys and values."""
        return 2 * self.keys + self.values

    @property
    def carried(self) -> int:
        """Elements of a layer's state."""
        return self.heads * self.size**2 + (self.taps - 1) * self.channels


class Gates(Module):
    """How much each head writes and forgets, made by two matrices."""

    def __init__(self, hidden: int, sizes: DeltaSizes) -> None:
        self.both = Projections(("ssm_beta", "ssm_alpha"), hidden, (sizes.heads, sizes.heads))

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Two of (tokens, heads)."""
        write, forget = self.both(x)
        return write, forget


class GroupedGates(Module):
    """The same by one matrix, whose rows lie together for heads that share keys."""

    def __init__(self, hidden: int, sizes: DeltaSizes) -> None:
        self.sizes = sizes
        self.both = Linear("ssm_ba", hidden, 2 * sizes.heads)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Two of (tokens, heads)."""
        groups, shared = self.sizes.key_heads, self.sizes.heads // self.sizes.key_heads
        both = self.both(x).reshape(x.dim(0), groups, 2 * shared)
        write, forget = both.chunk_sections(-1, shared, shared)
        return write.contiguous(x.dim(0), self.sizes.heads), forget.contiguous(x.dim(0), self.sizes.heads)


class DeltaNet(Module):
    """Convolved queries, keys and values go through a delta rule; its result is normalised and gated."""

    def __init__(self, hidden: int, sizes: DeltaSizes, eps: float, *, grouped: bool, together: bool) -> None:
        """Declares the projections.

        Args:
            grouped: heads of values that share a head of keys follow each other; otherwise each is followed
                by that of the next head of keys.
            together: the file has one matrix for both gates.
        """
        self.sizes, self.grouped = sizes, grouped
        self.input = Projections(("attn_qkv", "attn_gate"), hidden, (sizes.channels, sizes.values))
        self.gates = GroupedGates(hidden, sizes) if together else Gates(hidden, sizes)
        self.kernel = Weight("ssm_conv1d.weight", (sizes.channels, sizes.taps))
        self.forget_bias = Weight("ssm_dt.bias|ssm_dt", (sizes.heads,))
        # Below 0.
        self.forget_scale = Weight("ssm_a", (sizes.heads,))
        self.norm = RMSNorm("ssm_norm", sizes.size, eps)
        self.output = Linear("ssm_out", sizes.values, hidden)

    def __call__(self, x: Tensor, rotate: Rotation, history: LayerHistory) -> Tensor:
        sizes, tokens = self.sizes, x.dim(0)
        mixed, gate = self.input(x)
        write, forget = self.gates(x)
        decay = (forget + self.forget_bias.tensor).softplus() * self.forget_scale.tensor
        mixed = causal_convolution(mixed, self.kernel.tensor, history).silu()
        query, key, value = mixed.chunk_sections(-1, sizes.keys, sizes.keys, sizes.values)
        result = gated_delta_rule(
            self._directed(query),
            self._directed(key),
            split_heads(value, sizes.heads),
            decay,
            write.sigmoid(),
            history,
        )
        gated = self.norm(result) * split_heads(gate, sizes.heads).silu()
        return self.output(gated.reshape(tokens, sizes.values))

    def _directed(self, x: Tensor) -> Tensor:
        """Heads of length 1, (tokens, key heads, size) or one for each of values."""
        sizes = self.sizes
        x = split_heads(x, sizes.key_heads)
        x = x.rms_norm(None, _LENGTH_EPS / sizes.size).scale(1 / math.sqrt(sizes.size))
        if not self.grouped or sizes.heads == sizes.key_heads:
            return x
        each = x.reshape(x.dim(0) * sizes.key_heads, 1, sizes.size)
        return each.repeat(1, sizes.heads // sizes.key_heads).reshape(x.dim(0), sizes.heads, sizes.size)


class GatedAttention(Module):
    """Grouped-query attention of normalised queries and keys, gated by what stands beside the queries."""

    def __init__(self, sizes: hyper.Transformer) -> None:
        self.sizes = sizes
        queries, keys, values = sizes.projections
        self.qkv = Projections(
            ("attn_q", "attn_k", "attn_v"), sizes.hidden, (2 * queries, keys, values), bias="optional"
        )
        self.query_norm = RMSNorm("attn_q_norm", sizes.key_size, sizes.eps)
        self.key_norm = RMSNorm("attn_k_norm", sizes.key_size, sizes.eps)
        self.output = Linear("attn_output", queries, sizes.hidden, bias="optional")

    def __call__(self, x: Tensor, rotate: Rotation, history: LayerHistory) -> Tensor:
        sizes = self.sizes
        both, key, value = self.qkv(x)
        query, gate = split_heads(both, sizes.heads).chunk_sections(-1, sizes.key_size, sizes.key_size)
        query, key = self.query_norm(query), self.key_norm(split_heads(key, sizes.kv_heads))
        value = split_heads(value, sizes.kv_heads)
        scale = 1 / math.sqrt(sizes.key_size)
        seen = attention(rotate(query), rotate(key), value, scale, history)
        return self.output(seen * gate.contiguous(*seen.shape).sigmoid())


class Qwen35(Stack):
    """The decoder of Qwen 3.5.

    Attributes:
        attending: for each layer whether it has attention in place of a delta rule.
        delta: the sizes of delta rules.
        grouped: see `DeltaNet`; where the file does not say.
    """

    grouped = False

    def __init__(self, metadata: Metadata) -> None:
        layers = hyper.count(metadata, "block_count")
        kv_heads = metadata.per_layer("attention.head_count_kv", layers)
        sizes = hyper.transformer(metadata, kv_heads=max(*kv_heads, 1))
        # Layers behind the last guess more tokens, which nothing here does.
        guessing = metadata.uint("nextn_predict_layers", 0)
        if guessing >= layers:
            raise GGUFError(f"{metadata.source}: {guessing} of {layers} layers cannot guess only")
        sizes = replace(sizes, layers=layers - guessing)
        # Ollama's files have the image encoder, too.
        self.ignored = ("v.*", *(f"blk.{index}.*" for index in range(sizes.layers, layers)))
        self.delta = DeltaSizes.of(metadata)
        self.attending = _attending(metadata, kv_heads[: sizes.layers])
        grouped = not metadata.bool("ssm.v_head_reordered", not self.grouped)
        base = metadata.float("rope.freq_base", 10000000.0)
        # Texts have the same position in every section of the dimensions.
        rope = hyper.rope(metadata, sizes.key_size, base, RopeType.NEOX)
        blocks = [
            PreNormBlock(
                index,
                sizes,
                GatedAttention(sizes)
                if attends
                else DeltaNet(sizes.hidden, self.delta, sizes.eps, grouped=grouped, together=self.grouped),
                self._feed_forward(metadata, sizes),
                second_norm="post_attention_norm",
            )
            for index, attends in enumerate(self.attending)
        ]
        super().__init__(metadata, sizes, rope, blocks)

    def _feed_forward(self, metadata: Metadata, sizes: hyper.Transformer) -> list[Callable[[Tensor], Tensor]]:
        return [FeedForward(sizes.hidden, sizes.feed_forward, bias=False)]

    def cache(self) -> Cache:
        if all(self.attending):
            return Causal(self.shift)
        carried = self.attending.count(False) * self.delta.carried
        members = (Causal(self.shift), Recurrent(carried))
        return Composed(members, [0 if attends else 1 for attends in self.attending])


class Qwen35Moe(Qwen35):
    """The decoder of Qwen 3.5 with a mixture of experts."""

    def _feed_forward(self, metadata: Metadata, sizes: hyper.Transformer) -> list[Callable[[Tensor], Tensor]]:
        routing = hyper.mixture(metadata, normalise=True)
        width = hyper.count(metadata, "expert_feed_forward_length")
        shared = hyper.count(metadata, "expert_shared_feed_forward_length")
        return [MixtureOfExperts(routing, sizes.hidden, width), SharedExpert(sizes.hidden, shared)]


class Qwen3Next(Qwen35Moe):
    """The decoder of Qwen 3 Next."""

    grouped = True


def _attending(metadata: Metadata, kv_heads: Sequence[int]) -> tuple[bool, ...]:
    """Which layers have attention: Ollama's files say it by the number of heads.

    Raises:
        GGUFError: the file names too few.
    """
    layers, key = len(kv_heads), "attention.recurrent_layers"
    if 0 in kv_heads:
        return tuple(heads > 0 for heads in kv_heads)
    if metadata.full_key(key) in metadata and metadata.is_array(metadata.full_key(key)):
        recurrent = metadata.bools(key)
        if len(recurrent) < layers:
            raise GGUFError(f"{metadata.source}: {key} has {len(recurrent)} entries for {layers} layers")
        return tuple(not one for one in recurrent[:layers])
    period = hyper.count(metadata, "full_attention_interval", 4)
    return tuple((layer + 1) % period == 0 for layer in range(layers))
