"""Llama 4, text: layers with and without experts, whose matrices are stored transposed."""

import re
from collections.abc import Mapping
from typing import Any

from puna.convert.content import Content, Source
from puna.convert.decoder import Defaults, Family, Layer, Sizes
from puna.convert.experts import with_experts
from puna.convert.folder import Fields
from puna.convert.layers import EXPERTS, FEED_FORWARD, PRE_NORMS, SHARED_FEED_FORWARD, attention
from puna.convert.sources import transposed
from puna.errors import UnsupportedModel, WeightError

_FEED_FORWARD = re.compile(r"(layers\.[0-9]{1,4}\.)feed_forward\.(.+)", re.ASCII)
_TOGETHER = {"experts.gate_up_proj": ("gate", "up"), "experts.down_proj": ("down",)}
_PERIOD = 4
_CHUNKS, _EVERYTHING = "chunked_attention", "full_attention"


def _layer(config: Fields, sizes: Sizes, index: int) -> Layer:
    mixed = (index + 1) % config.count("interleave_moe_layer_step", default=1) == 0
    return {**EXPERTS, **SHARED_FEED_FORWARD} if mixed else FEED_FORWARD


def _prepared(tensors: Mapping[str, Source], config: Fields, sizes: Sizes) -> dict[str, Content]:
    """The tensors by the names that other models have for them. Raises: WeightError."""
    found: dict[str, Content] = {}
    others: dict[str, Source] = {}
    for name, source in tensors.items():
        match = _FEED_FORWARD.fullmatch(name)
        if match is None:
            others[name] = source
        elif match[2] in _TOGETHER:
            found |= _turned(f"{match[1]}mlp.experts.", _TOGETHER[match[2]], source)
        else:
            others[f"{match[1]}mlp.{'gate.weight' if match[2] == 'router.weight' else match[2]}"] = source
    return found | with_experts(others)


def _turned(stem: str, parts: tuple[str, ...], source: Source) -> dict[str, Content]:
    if len(source.shape) != 3 or source.shape[2] % len(parts):
        raise WeightError(f"the weights do not fit: {source.name[:100]!r} has the shape {source.shape}")
    size = source.shape[2] // len(parts)
    names = {f"{stem}{part}_proj.weight": range(at * size, (at + 1) * size) for at, part in enumerate(parts)}
    return {name: transposed(name, source, columns) for name, columns in names.items()}


def _keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    tempered = config.flag("attn_temperature_tuning", default=True)
    chunk = {"attention.chunk_size": config.count("attention_chunk_size", default=8192)}
    return {
        "vocab_size": sizes.vocabulary,
        "rope.dimension_count": sizes.head,
        "interleave_moe_layer_step": config.count("interleave_moe_layer_step", default=1),
        "expert_feed_forward_length": sizes.expert_width,
        "use_qk_norm": config.flag("use_qk_norm", default=True),
        "attention.temperature_length": config.count("floor_scale", default=8192),
        "attention.temperature_scale": config.number("attn_scale", default=0.1) if tempered else 0.0,
        **(chunk if _in_chunks(config, sizes.layers) else {"attention.sliding_window": 0}),
    }


def _in_chunks(config: Fields, layers: int) -> bool:
    """Whether all but every fourth layer see a chunk of the text, or all see everything.

    Raises:
        UnsupportedModel: neither; no key says which layers do.
    """
    usual = [(index + 1) % _PERIOD != 0 for index in range(layers)]
    # 1 is for layers that do encode positions. Nothing is said by an empty list.
    rotated = config.values.get("no_rope_layers") or [int(local) for local in usual]
    kinds = [_CHUNKS if local else _EVERYTHING for local in usual]
    stated = config.values.get("layer_types") or kinds
    if (
        rotated == usual
        and stated == kinds
        and config.count("no_rope_layer_interval", default=_PERIOD) == _PERIOD
    ):
        return True
    if rotated == [1] * layers and stated == [_EVERYTHING] * layers:
        return False
    raise UnsupportedModel("config.json: these layer_types and no_rope_layers together are not supported")


def _check(config: Fields, sizes: Sizes) -> None:
    _in_chunks(config, sizes.layers)
    step = config.count("interleave_moe_layer_step", default=1)
    mixed = [index for index in range(sizes.layers) if (index + 1) % step == 0]
    if config.values.get("moe_layers") not in (None, mixed):
        raise UnsupportedModel(f"config.json: moe_layers other than every {step}. are not supported")


LLAMA4 = Family(
    "llama4",
    {**PRE_NORMS, **attention()},
    of_layer=_layer,
    keys=_keys,
    check=_check,
    defaults=Defaults(theta=500000.0),
    dropped=("vision_model.", "multi_modal_projector."),
    prepare=_prepared,
)
