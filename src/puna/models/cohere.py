"""Command R and Cohere 2: attention and feed-forward side by side behind one norm, logits with a factor.

Cohere, "Command R", 2024, and arXiv:2504.00698 (Command A), whose local layers have a window, and whose
others know of no positions.
"""

from functools import partial

from puna.gguf import Metadata
from puna.ml import RopeParameters, RopeType, Tensor
from puna.ml.nn import FeedForward, LayerHistory, LayerNorm, Module, Weight
from puna.models import hyper
from puna.models.stack import Attention, Block, Rotation, Stack, Transform

_norm = partial(LayerNorm, bias=False)


class HeadNorm(Module):
    """A norm of each head with weights of its own; none where the file has none, as in smaller models."""

    def __init__(self, name: str, heads: int, size: int, eps: float) -> None:
        self.weight = Weight(f"{name}.weight", (heads, size), optional=True)
        self.eps = eps

    def __call__(self, heads: Tensor) -> Tensor:
        return heads if self.weight.maybe is None else heads.norm(self.eps) * self.weight.maybe


class Layer(Block):
    """The state, plus attention and feed-forward, both of the same normalised state."""

    def __init__(self, index: int, sizes: hyper.Transformer) -> None:
        self.scope = f"blk.{index}"
        self.norm = _norm("attn_norm", sizes.hidden, sizes.eps)
        self.attention = Attention(sizes)
        self.attention.query_norm = HeadNorm("attn_q_norm", sizes.heads, sizes.key_size, sizes.eps)
        self.attention.key_norm = HeadNorm("attn_k_norm", sizes.kv_heads, sizes.key_size, sizes.eps)
        self.feed_forward = FeedForward(sizes.hidden, sizes.feed_forward)

    def __call__(
        self, x: Tensor, rotate: Rotation, history: LayerHistory, select: Transform | None
    ) -> Tensor:
        normalised = self.norm(x)
        attended = self.attention(normalised, rotate, history)
        if select is not None:
            x, attended, normalised = select(x), select(attended), select(normalised)
        return x + self.feed_forward(normalised) + attended


class CommandR(Stack):
    """The decoder."""

    def __init__(self, metadata: Metadata, window: int = 0, local: tuple[bool, ...] = ()) -> None:
        sizes = hyper.transformer(metadata, eps_key="attention.layer_norm_epsilon")
        base = metadata.float("rope.freq_base", 10000.0)
        rope = hyper.rope(metadata, sizes.key_size, base, RopeType.NORMAL)
        self.logit_scale = metadata.float("logit_scale", 1.0)
        layers = [Layer(index, sizes) for index in range(sizes.layers)]
        super().__init__(metadata, sizes, rope, layers, norm=_norm, window=window, local=local)

    def logits(self, x: Tensor) -> Tensor:
        return x.scale(self.logit_scale)


class Cohere2(CommandR):
    """The decoder whose local layers have a window."""

    def __init__(self, metadata: Metadata) -> None:
        layers = hyper.transformer(metadata, eps_key="attention.layer_norm_epsilon").layers
        window = hyper.count(metadata, "attention.sliding_window")
        super().__init__(metadata, window, hyper.local_layers(metadata, layers, 4))

    def rope_of(self, layer: int) -> RopeParameters | None:
        return self.rope if self.local[layer] else None
