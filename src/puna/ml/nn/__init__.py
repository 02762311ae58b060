"""Building blocks of models: layers that declare their weights, attention, and binding to a model file."""

from puna.ml.nn.attention import attention, merge_heads, split_heads
from puna.ml.nn.bind import bind, declared
from puna.ml.nn.feed_forward import (
    FeedForward,
    MixtureOfExperts,
    PlainFeedForward,
    Routing,
    Scores,
    SharedExpert,
    geglu,
    swiglu,
)
from puna.ml.nn.history import Advance, LayerHistory
from puna.ml.nn.layers import Embedding, Experts, FusedProjections, LayerNorm, Linear, Projections, RMSNorm
from puna.ml.nn.lora import LowRank, Scales, adaptable, adapting
from puna.ml.nn.module import Module
from puna.ml.nn.recurrence import causal_convolution, gated_delta_rule
from puna.ml.nn.weight import Weight, WeightGroup

__all__ = [
    "Advance",
    "Embedding",
    "Experts",
    "FeedForward",
    "FusedProjections",
    "LayerHistory",
    "LayerNorm",
    "Linear",
    "LowRank",
    "MixtureOfExperts",
    "Module",
    "PlainFeedForward",
    "Projections",
    "RMSNorm",
    "Routing",
    "Scales",
    "Scores",
    "SharedExpert",
    "Weight",
    "WeightGroup",
    "adaptable",
    "adapting",
    "attention",
    "bind",
    "causal_convolution",
    "declared",
    "gated_delta_rule",
    "geglu",
    "merge_heads",
    "split_heads",
    "swiglu",
]
