"""LFM2: short convolutions, gated twice, with grouped-query attention in some of the layers.

Liquid AI, arXiv:2511.23404.
"""

from collections.abc import Callable

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
    Scores,
    Weight,
    causal_convolution,
)
from puna.models import hyper
from puna.models.stack import Attention, PreNormBlock, Rotation, Stack


class ShortConvolution(Module):
    """W_out (c * convolution(b * x)) with b, c and x made of the state."""

    def __init__(self, hidden: int, taps: int) -> None:
        self.input = Linear("shortconv.in_proj", hidden, 3 * hidden)
        self.kernel = Weight("shortconv.conv.weight", (hidden, taps))
        self.output = Linear("shortconv.out_proj", hidden, hidden)

    def __call__(self, x: Tensor, rotate: Rotation, history: LayerHistory) -> Tensor:
        width = x.dim(-1)
        before, after, x = self.input(x).chunk_sections(-1, width, width, width)
        return self.output(after * causal_convolution(before * x, self.kernel.tensor, history))


class Lfm2(Stack):
    """The decoder.

    Attributes:
        taps: of the convolutions.
        attending: for each layer whether it has attention in place of a convolution.
    """

    def __init__(self, metadata: Metadata) -> None:
        layers = hyper.count(metadata, "block_count")
        kv_heads = metadata.per_layer("attention.head_count_kv", layers)
        self.attending = tuple(heads > 0 for heads in kv_heads)
        if len({heads for heads in kv_heads if heads}) > 1:
            raise GGUFError(
                f"{metadata.source}: layers of LFM2 with different numbers of key heads make no sense"
            )
        sizes = hyper.transformer(metadata, kv_heads=max(*kv_heads, 1))
        self.taps = hyper.count(metadata, "shortconv.l_cache")
        if self.taps < 2:
            raise GGUFError(
                f"{metadata.source}: convolutions of {self.taps} tap look at nothing before a token"
            )
        base = metadata.float("rope.freq_base", 1000000.0)
        rope = hyper.rope(metadata, sizes.key_size, base, RopeType.NEOX)
        blocks = [
            PreNormBlock(
                index,
                sizes,
                Attention(sizes, head_norms=True) if attends else ShortConvolution(sizes.hidden, self.taps),
                [self._feed_forward(index, metadata, sizes)],
            )
            for index, attends in enumerate(self.attending)
        ]
        super().__init__(metadata, sizes, rope, blocks)

    def _feed_forward(
        self, index: int, metadata: Metadata, sizes: hyper.Transformer
    ) -> Callable[[Tensor], Tensor]:
        return FeedForward(sizes.hidden, sizes.feed_forward, bias=False)

    def cache(self) -> Cache:
        if all(self.attending):
            return Causal(self.shift)
        carried = self.attending.count(False) * (self.taps - 1) * self.sizes.hidden
        members = (Causal(self.shift), Recurrent(carried))
        return Composed(members, [0 if attends else 1 for attends in self.attending])


class Lfm2Moe(Lfm2):
    """The decoder with a mixture of experts behind its first layers."""

    def _feed_forward(
        self, index: int, metadata: Metadata, sizes: hyper.Transformer
    ) -> Callable[[Tensor], Tensor]:
        if index < metadata.uint("leading_dense_block_count", 0):
            return super()._feed_forward(index, metadata, sizes)
        routing = hyper.mixture(metadata, normalise=True, scores=Scores.SIGMOID)
        return MixtureOfExperts(routing, sizes.hidden, hyper.count(metadata, "expert_feed_forward_length"))
