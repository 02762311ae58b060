"""LFM2: short convolutions, with attention in some of the layers, of one piece and with experts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from puna.convert.content import Content, Source
from puna.convert.decoder import Defaults, Family, Layer, Sizes, Weight
from puna.convert.experts import with_experts
from puna.convert.folder import Fields, shown
from puna.convert.layers import EXPERTS, norms
from puna.convert.sources import squeezed
from puna.errors import FormatError, UnsupportedModel

# Of `expert_gating_func`: how scores are made of what the router says.
_SIGMOID = 2

_CONVOLUTION, _ATTENTION = "conv", "full_attention"

_OPERATORS: dict[str, Layer] = {
    _CONVOLUTION: {
        "conv.in_proj.weight": Weight("shortconv.in_proj.weight", ("three", "hidden")),
        "conv.conv.weight": Weight("shortconv.conv.weight", ("hidden", "taps"), matrix=False),
        "conv.out_proj.weight": Weight("shortconv.out_proj.weight", ("hidden", "hidden")),
    },
    _ATTENTION: {
        "self_attn.q_proj.weight": Weight("attn_q.weight", ("queries", "hidden")),
        "self_attn.k_proj.weight": Weight("attn_k.weight", ("keys", "hidden")),
        "self_attn.v_proj.weight": Weight("attn_v.weight", ("keys", "hidden")),
        "self_attn.out_proj.weight": Weight("attn_output.weight", ("hidden", "queries")),
        "self_attn.q_layernorm.weight": Weight("attn_q_norm.weight", ("head",)),
        "self_attn.k_layernorm.weight": Weight("attn_k_norm.weight", ("head",)),
    },
}
_NORMS = norms({"operator_norm": "attn_norm", "ffn_norm": "ffn_norm"})
_FEED_FORWARD: Layer = {
    "feed_forward.w1.weight": Weight("ffn_gate.weight", ("feed_forward", "hidden")),
    "feed_forward.w3.weight": Weight("ffn_up.weight", ("feed_forward", "hidden")),
    "feed_forward.w2.weight": Weight("ffn_down.weight", ("hidden", "feed_forward")),
}
_EXPERTS: Layer = {
    **EXPERTS,
    "feed_forward.expert_bias": Weight("exp_probs_b.bias", ("experts",), optional=True),
}


def _operators(config: Fields, sizes: Sizes) -> list[str]:
    """What each layer does before its feed-forward network."""
    found = config.values.get("layer_types")
    if found is None:
        attending = config.values.get("full_attn_idxs", range(sizes.layers))
        found = [_ATTENTION if index in attending else _CONVOLUTION for index in range(sizes.layers)]
    if not isinstance(found, list) or len(found) != sizes.layers:
        raise FormatError(f"config.json: layer_types must name the kind of each of {sizes.layers} layers")
    for kind in found:
        if kind not in (_CONVOLUTION, _ATTENTION):
            raise UnsupportedModel(f"config.json: layers of kind {shown(kind)} are not supported in LFM2")
    return found


def _of_layer(config: Fields, sizes: Sizes, index: int) -> Layer:
    dense = config.count("num_dense_layers", default=2, least=0) if sizes.experts else sizes.layers
    feed_forward = _FEED_FORWARD if index < dense else _EXPERTS
    return {**_OPERATORS[_operators(config, sizes)[index]], **feed_forward}


def _sizes(config: Fields, sizes: Sizes) -> Sizes:
    more = {"taps": config.count("conv_L_cache", default=3, least=2), "three": 3 * sizes.hidden}
    return replace(sizes, more=more)


def _dense_sizes(config: Fields, sizes: Sizes) -> Sizes:
    """Two thirds of the width that is stated, unless it is meant as it is."""
    width = config.count("block_ff_dim", "intermediate_size")
    if config.flag("block_auto_adjust_ff_dim", default=True):
        width = int(2 * width / 3)
        width = int(config.number("block_ffn_dim_multiplier", default=1.0) * width)
        multiple = config.count("block_multiple_of", default=256)
        width = -(-width // multiple) * multiple
    return replace(_sizes(config, sizes), feed_forward=width)


def _check(config: Fields, sizes: Sizes) -> None:
    if config.flag("conv_bias", default=False):
        raise UnsupportedModel("config.json: conv_bias is not supported in LFM2")


def _keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    operators = _operators(config, sizes)
    return {
        "vocab_size": sizes.vocabulary,
        "shortconv.l_cache": sizes.more["taps"],
        "attention.head_count_kv": [
            sizes.kv_heads if operator == _ATTENTION else 0 for operator in operators
        ],
    }


def _mixture_keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    keys = _keys(config, sizes) | {
        "expert_feed_forward_length": sizes.expert_width,
        "leading_dense_block_count": config.count("num_dense_layers", default=2, least=0),
        "expert_gating_func": _SIGMOID,
    }
    if not config.flag("norm_topk_prob", default=True):
        keys["expert_weights_norm"] = False
    scale = config.number("routed_scaling_factor", default=1.0)
    return keys if scale == 1 else keys | {"expert_weights_scale": scale}


def _prepared(tensors: Mapping[str, Source], config: Fields, sizes: Sizes) -> dict[str, Content]:
    return {
        name: squeezed(content) if name.endswith(".conv.conv.weight") and len(content.shape) == 3 else content
        for name, content in with_experts(tensors).items()
    }


LFM2 = Family(
    "lfm2",
    _NORMS,
    of_layer=_of_layer,
    keys=_keys,
    check=_check,
    defaults=Defaults(theta=1000000.0, tied=True, eps=1e-5),
    norm=("embedding_norm.weight", "token_embd_norm.weight"),
    sizes=_dense_sizes,
    prepare=_prepared,
)

LFM2MOE = replace(LFM2, architecture="lfm2moe", keys=_mixture_keys, sizes=_sizes)
