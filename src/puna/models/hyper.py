"""Reading hyper-parameters that many architectures have."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from puna.errors import GGUFError, UnsupportedModel
from puna.gguf import Metadata
from puna.ml import RopeParameters, RopeType
from puna.ml.nn import Routing, Scores

LAYERS_AT_MOST = 4096
SIDE_AT_MOST = 4096
"""Pixels of a picture's side; no image encoder looks at more."""


def count(metadata: Metadata, key: str, default: int | None = None) -> int:
    """A number of things of which a model has at least one. Raises GGUFError when there are none."""
    value = metadata.uint(key) if default is None else metadata.uint(key, default)
    if value < 1:
        raise GGUFError(
            f"{metadata.source}: the key {metadata.full_key(key)!r} must be at least 1, but is {value}"
        )
    return value


def vocabulary(metadata: Metadata) -> int | None:
    """How many tokens the file's tokenizer has, None if the file has no tokenizer."""
    key = "tokenizer.ggml.tokens"
    return metadata.length(key) if key in metadata else None


@dataclass(frozen=True, slots=True)
class Transformer:
    """The sizes of a model.

    Attributes:
        layers: blocks.
        hidden: width of a token's vector between blocks.
        feed_forward: width inside the feed-forward network.
        heads: of queries.
        kv_heads: of keys and values; divides `heads`.
        key_size: width of one head's query and key.
        value_size: width of one head's value.
        eps: of the norms.
    """

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    key_size: int
    value_size: int
    eps: float

    @property
    def projections(self) -> tuple[int, int, int]:
        """The widths of all heads' queries, keys and values."""
        return self.heads * self.key_size, self.kv_heads * self.key_size, self.kv_heads * self.value_size


def transformer(
    metadata: Metadata,
    *,
    head_size: int | None = None,
    kv_heads: int | None = None,
    eps: float | None = None,
    eps_key: str = "attention.layer_norm_rms_epsilon",
) -> Transformer:
    """The sizes of the model that the metadata describes.

    Args:
        head_size: where the file names none; hidden / heads if None.
        kv_heads: of the layers that have any, where the file has a number for each; if None, it has one.
        eps: where the file names none; if None, it must.
        eps_key: that of its kind of norm.

    Raises:
        GGUFError: a key is missing, or the sizes do not go together.
    """
    layers, heads = count(metadata, "block_count"), count(metadata, "attention.head_count")
    hidden = count(metadata, "embedding_length")
    kv_heads = kv_heads or count(metadata, "attention.head_count_kv", heads)
    if layers > LAYERS_AT_MOST:
        raise GGUFError(f"{metadata.source}: {layers} layers are more than any model has")
    if heads % kv_heads:
        raise GGUFError(
            f"{metadata.source}: {kv_heads} key heads cannot be shared by {heads} query heads evenly"
        )
    size = head_size or hidden // heads
    return Transformer(
        layers,
        hidden,
        _width(metadata, layers),
        heads,
        kv_heads,
        count(metadata, "attention.key_length", size),
        count(metadata, "attention.value_length", size),
        _epsilon(metadata, eps_key, eps),
    )


def _width(metadata: Metadata, layers: int) -> int:
    """Inside the feed-forward network; some files have a number for each layer, some only that of experts."""
    key, experts = "feed_forward_length", "expert_feed_forward_length"
    if metadata.full_key(key) not in metadata or not metadata.is_array(metadata.full_key(key)):
        return count(
            metadata, key, count(metadata, experts) if metadata.full_key(experts) in metadata else None
        )
    widths = set(metadata.per_layer(key, layers))
    if len(widths) > 1 or min(widths) < 1:
        raise UnsupportedModel(f"{metadata.source}: layers of different widths are not supported")
    return widths.pop()


def mixture(metadata: Metadata, *, normalise: bool, scores: Scores = Scores.SOFTMAX) -> Routing:
    """How tokens are given to experts.

    Args:
        normalise: whether their weights add up to 1, where the file does not say.
        scores: of what kind they are, where the file does not say.

    Raises:
        GGUFError: a key is missing, or the numbers do not go together.
        UnsupportedModel: another kind of scores.
    """
    experts, used = count(metadata, "expert_count"), count(metadata, "expert_used_count")
    if used > experts:
        raise GGUFError(f"{metadata.source}: no token can use {used} of {experts} experts")
    kind = metadata.uint("expert_gating_func", 0) or scores.value
    if kind not in [known.value for known in Scores]:
        raise UnsupportedModel(f"{metadata.source}: experts chosen by function {kind} are not supported")
    # Ollama's name of the key is the second.
    normalise = metadata.bool("expert_weights_norm", metadata.bool("norm_top_k_prob", normalise))
    scale = metadata.float("expert_weights_scale", 0.0) or 1.0
    groups, groups_used = _groups(metadata, experts, used)
    return Routing(experts, used, Scores(kind), normalise, scale, groups, groups_used)


def _groups(metadata: Metadata, experts: int, used: int) -> tuple[int, int]:
    """How many groups the experts are in, and of how many a token's are."""
    groups = metadata.uint("expert_group_count", 0) or 1
    groups_used = metadata.uint("expert_group_used_count", 0) or groups
    if groups_used >= groups:
        return 1, 1
    size = experts // groups
    if experts % groups or size < 2 or used > groups_used * size:
        raise GGUFError(
            f"{metadata.source}: no token can use {used} of {experts} experts in {groups_used} of {groups} "
            "groups"
        )
    return groups, groups_used


def local_layers(metadata: Metadata, layers: int, period: int) -> tuple[bool, ...]:
    """Which layers have a window: one bool for each in the file, or the period, whose last layer has none.

    Args:
        period: where the file says nothing.

    Raises:
        GGUFError: there are fewer bools than layers, or the period is 0.
    """
    key = "attention.sliding_window_pattern"
    if isinstance(metadata.get(metadata.full_key(key)), list):
        pattern = metadata.bools(key)
        if len(pattern) < layers:
            raise GGUFError(f"{metadata.source}: {key} has {len(pattern)} entries for {layers} layers")
        return tuple(pattern[:layers])
    found = count(metadata, key, period)
    return tuple((layer + 1) % found != 0 for layer in range(layers))


def _epsilon(metadata: Metadata, key: str, default: float | None) -> float:
    value = metadata.float(key) if default is None else metadata.float(key, default)
    if not 0 <= value < math.inf:
        raise GGUFError(f"{metadata.source}: the key {metadata.full_key(key)!r} cannot be {value}")
    return value


def rope(
    metadata: Metadata,
    head_size: int,
    base: float,
    type: RopeType,
    *,
    scaling: str = "linear",
    longrope: bool = False,
) -> RopeParameters:
    """Rotary embedding with the scaling that the metadata asks for: none, linear or YaRN.

    Args:
        head_size: how many dimensions are rotated where the file names no number.
        base: the frequency base.
        type: the architecture's pairing.
        scaling: the kind, where the file names a factor only.
        longrope: the model has the factors of LongRoPE (arXiv:2402.13753), so that nothing of it is here.

    Raises:
        UnsupportedModel: another kind of scaling.
        GGUFError: a key makes no sense.
    """
    dimensions = count(metadata, "rope.dimension_count", head_size)
    if dimensions > head_size or dimensions % 2:
        raise GGUFError(
            f"{metadata.source}: {dimensions} of {head_size} dimensions cannot be rotated in pairs"
        )
    if not 0 < base < math.inf:
        raise GGUFError(f"{metadata.source}: rotary embeddings cannot have the frequency base {base}")
    plain = RopeParameters(dimensions, base, type=type)
    factor = metadata.float("rope.scaling.factor", metadata.float("rope.scale_linear", 0.0))
    kind = metadata.string("rope.scaling.type", scaling if factor else "none")
    if kind == "none" or (longrope and kind == "longrope"):
        return plain
    if kind not in ("linear", "yarn"):
        raise UnsupportedModel(f"{metadata.source}: rotary embeddings scaled by {kind!r} are not supported")
    if not math.isfinite(factor) or factor < 0:
        raise GGUFError(f"{metadata.source}: positions cannot be divided by {factor}")
    scaled = replace(plain, scale=factor or 1.0)
    return scaled if kind == "linear" else _yarn(metadata, scaled)


def sections(metadata: Metadata, dimensions: int, usual: list[int]) -> tuple[int, ...]:
    """How many pairs of a head's rotated dimensions go by each coordinate of a token's place.

    Args:
        usual: where the file does not say.

    Raises:
        GGUFError: they are not as many as there are pairs.
    """
    # Names of llama.cpp and of Ollama.
    found = metadata.ints("rope.dimension_sections", metadata.ints("rope.mrope_section", usual))
    if not 1 <= len(found) <= RopeType.MULTI.positions or min(found) < 0 or sum(found) != dimensions // 2:
        raise GGUFError(
            f"{metadata.source}: {dimensions} dimensions cannot be rotated in sections of {found[:8]} pairs"
        )
    return tuple(found)


def _yarn(metadata: Metadata, scaled: RopeParameters) -> RopeParameters:
    """YaRN (arXiv:2309.00071): fast frequencies stay, slow ones are interpolated, between lies a ramp."""
    # Names of llama.cpp and of Ollama.
    whole = _either(metadata, "rope.scaling.yarn_log_multiplier", "rope.scaling.mscale_all_dim", 0.0)
    usual = _yarn_magnitude(scaled.scale)
    magnitude = metadata.float("rope.scaling.yarn_attn_factor", 0.0)
    if whole and not magnitude:
        magnitude = usual / _yarn_magnitude(scaled.scale, whole)
    return replace(
        scaled,
        original_context=count(
            metadata, "rope.scaling.original_context_length", count(metadata, "context_length")
        ),
        extrapolation=metadata.float("rope.scaling.yarn_ext_factor", 1.0),
        attention_factor=(magnitude / usual if magnitude else 1.0)
        * metadata.float("rope.scaling.attn_factor", 1.0),
        beta_fast=_either(metadata, "rope.scaling.yarn_beta_fast", "rope.scaling.beta_fast", 32.0),
        beta_slow=_either(metadata, "rope.scaling.yarn_beta_slow", "rope.scaling.beta_slow", 1.0),
    )


def _either(metadata: Metadata, key: str, other: str, default: float) -> float:
    """llama.cpp's name of a key, else Ollama's."""
    return metadata.float(key, metadata.float(other, default))


def _yarn_magnitude(scale: float, factor: float = 1.0) -> float:
    return 1.0 + 0.1 * factor * math.log(scale) if scale > 1 else 1.0


@dataclass(frozen=True, slots=True)
class Temperature:
    """Queries grow with their position, so that scores stay apart in long contexts; Llama 4.

    Attributes:
        length: tokens after which they grow for the first time.
        scale: how fast; 0 for not at all.
        offset: added to positions.
    """

    length: int
    scale: float
    offset: int = 0

    def at(self, positions: NDArray[np.int32]) -> NDArray[np.float64]:
        """What queries at these positions are multiplied with."""
        return 1.0 + self.scale * np.log1p((positions + self.offset) // self.length)


def temperature(metadata: Metadata, length: int, scale: float, offset: int = 0) -> Temperature:
    """A temperature. Raises GGUFError where the scale makes no sense."""
    if not 0 <= scale < math.inf:
        raise GGUFError(f"{metadata.source}: queries cannot grow by {scale} times a logarithm")
    return Temperature(length, scale, offset)


def turning(parameters: RopeParameters) -> RopeParameters:
    """The parameters that turn a key which was rotated before: the same angles, the length left as it is.

    Where places have several coordinates, all move by the same offset, as in a text.
    """
    if parameters.type.is_multi:
        parameters = replace(parameters, type=RopeType.NEOX, sections=())
    if not parameters.extrapolation:
        return replace(parameters, attention_factor=1.0)
    return replace(parameters, attention_factor=1.0 / _yarn_magnitude(parameters.scale))
