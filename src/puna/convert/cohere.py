"""Command R and Cohere 2: one norm before both parts of a layer, which subtracts the mean."""

from typing import Any

from puna.convert.decoder import Defaults, Family, Layer, Sizes, Weight
from puna.convert.folder import Fields, shown
from puna.convert.layers import FEED_FORWARD, attention, norms
from puna.convert.rotary import global_rope
from puna.convert.windows import local_layers
from puna.errors import UnsupportedModel

_PERIOD = 4
_DEFAULTS = Defaults(eps=1e-5, context=8192, tied=True)
_LAYER: Layer = {**norms({"input_layernorm": "attn_norm"}), **attention(), **FEED_FORWARD}


def _keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    return {"logit_scale": config.number("logit_scale", default=0.0625), "rope.scaling.type": "none"}


def _command_r_keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    """Of these models, `max_position_embeddings` is less than what they were trained with."""
    context = config.count("model_max_length", default=sizes.context)
    return _keys(config, sizes) | {"context_length": context}


def _cohere2_keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    period = config.count("sliding_window_pattern", "_sliding_window_pattern", default=_PERIOD)
    local = local_layers(config, sizes.layers, period)
    usual = local == local_layers(Fields({}), sizes.layers, _PERIOD)
    return {
        **_keys(config, sizes),
        "vocab_size": sizes.vocabulary,
        "rope.dimension_count": sizes.head,
        "attention.sliding_window": config.count("sliding_window", default=4096),
        **({} if usual else {"attention.sliding_window_pattern": local}),
    }


def _check(config: Fields, sizes: Sizes) -> None:
    kind = global_rope(config).text("rope_type", "type", default="default")
    if kind not in ("default", "dynamic"):
        raise UnsupportedModel(f"config.json: rotary embeddings scaled by {shown(kind)} are not supported")


def _check_cohere2(config: Fields, sizes: Sizes) -> None:
    _check(config, sizes)
    if config.number("rotary_pct", default=1.0) != 1:
        raise UnsupportedModel("config.json: rotation of only a part of each head is not supported")


COMMAND_R = Family(
    "command-r",
    {
        **_LAYER,
        "self_attn.q_norm.weight": Weight(
            "attn_q_norm.weight", ("heads", "head"), optional=True, matrix=False
        ),
        "self_attn.k_norm.weight": Weight(
            "attn_k_norm.weight", ("kv_heads", "head"), optional=True, matrix=False
        ),
    },
    keys=_command_r_keys,
    check=_check,
    layer_norm=True,
    defaults=_DEFAULTS,
)

COHERE2 = Family(
    "cohere2", _LAYER, keys=_cohere2_keys, check=_check_cohere2, layer_norm=True, defaults=_DEFAULTS
)
