"""DeepSeek V2 and V3, and GLM 4.7 Flash: latent attention, and experts of which every token uses some.

The matrix that makes keys and values of the latent vector (arXiv:2405.04434) is in two parts in GGUF files,
those of the keys transposed: queries and results are multiplied with them instead.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from puna.convert.content import Content, Source
from puna.convert.decoder import Family, Layer, Sizes, Weight
from puna.convert.experts import with_experts
from puna.convert.folder import Fields, shown
from puna.convert.layers import EXPERTS, FEED_FORWARD, PRE_NORMS
from puna.convert.rotary import global_rope, rotary_keys
from puna.convert.sources import sections, transposed
from puna.errors import UnsupportedModel, WeightError

_UP = re.compile(r"(layers\.[0-9]{1,4}\.self_attn\.)kv_b_proj\.weight", re.ASCII)
# By what the configurations call the scores of experts: GGUF's numbers for them.
_SCORES = {"softmax": 1, "sigmoid": 2}
_DENSE, _SPARSE = "dense", "sparse"
_SCALES = {"softmax": 1.0, "sigmoid": 2.5}
_METHODS = {"softmax": ("greedy", "group_limited_greedy"), "sigmoid": ("noaux_tc",)}


def _latent(config: Fields) -> tuple[int, int, int, int]:
    """Widths: of the vector that is kept, of a head's query without and with rotation, of its value."""
    names = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    rank, plain, rotated, value = (config.count(name) for name in names)
    return rank, plain, rotated, value


def _layer(config: Fields, sizes: Sizes, index: int) -> Layer:
    if index < _dense(config, sizes):
        return {**_attention(config, sizes), **FEED_FORWARD}
    shared = config.count("n_shared_experts", default=0, least=0) * sizes.expert_width
    routed = {**_attention(config, sizes), **EXPERTS}
    routed["mlp.gate.e_score_correction_bias"] = Weight("exp_probs_b.bias", ("experts",), optional=True)
    return {**routed, **_shared(shared)} if shared else routed


def _attention(config: Fields, sizes: Sizes) -> Layer:
    rank, plain, rotated, value = _latent(config)
    query_rank, queries = _query_rank(config), sizes.heads * (plain + rotated)
    query = {"self_attn.q_proj.weight": Weight("attn_q.weight", (queries, "hidden"))}
    if query_rank:
        query = {
            "self_attn.q_a_proj.weight": Weight("attn_q_a.weight", (query_rank, "hidden")),
            "self_attn.q_a_layernorm.weight": Weight("attn_q_a_norm.weight", (query_rank,)),
            "self_attn.q_b_proj.weight": Weight("attn_q_b.weight", (queries, query_rank)),
        }
    return {
        **query,
        "self_attn.kv_a_proj_with_mqa.weight": Weight("attn_kv_a_mqa.weight", (rank + rotated, "hidden")),
        "self_attn.kv_a_layernorm.weight": Weight("attn_kv_a_norm.weight", (rank,)),
        "self_attn.k_b.weight": Weight("attn_k_b.weight", ("heads", rank, plain)),
        "self_attn.v_b.weight": Weight("attn_v_b.weight", ("heads", value, rank)),
        "self_attn.o_proj.weight": Weight("attn_output.weight", ("hidden", sizes.heads * value)),
    }


def _shared(width: int) -> Layer:
    shapes: dict[str, tuple[str | int, ...]] = {
        "gate": (width, "hidden"),
        "up": (width, "hidden"),
        "down": ("hidden", width),
    }
    return {
        f"mlp.shared_experts.{part}_proj.weight": Weight(f"ffn_{part}_shexp.weight", shape)
        for part, shape in shapes.items()
    }


def _prepared(tensors: Mapping[str, Source], config: Fields, sizes: Sizes) -> dict[str, Content]:
    """The tensors with keys and values apart. Raises: WeightError."""
    rank, plain, _, value = _latent(config)
    found: dict[str, Content] = {}
    for name, source in with_experts(tensors).items():
        match = _UP.fullmatch(name)
        if match is None:
            found[name] = source
            continue
        if source.shape != (sizes.heads * (plain + value), rank):
            raise WeightError(f"the weights do not fit config.json: {name} has the shape {source.shape}")
        keys, values = (f"{match[1]}{part}_b.weight" for part in "kv")
        parts = sections(tensors[name], sizes.heads, {keys: plain, values: value})
        found |= {keys: transposed(keys, parts[keys], range(rank)), values: parts[values]}
    return found


def _query_rank(config: Fields) -> int:
    return config.count("q_lora_rank", default=0, least=0)


def _dense(config: Fields, sizes: Sizes) -> int:
    """How many layers have no experts, all of them before the others."""
    kinds = config.values.get("mlp_layer_types")
    named = kinds.count(_DENSE) if isinstance(kinds, list) else 0
    return config.count("first_k_dense_replace", default=named, least=0) if sizes.experts else sizes.layers


def _keys(scores: str, config: Fields, sizes: Sizes) -> dict[str, Any]:
    rank, plain, rotated, value = _latent(config)
    rope = global_rope(config)
    growth = rope.number("mscale_all_dim") if rope.values.get("mscale_all_dim") else 0.0
    query_rank = _query_rank(config)
    return {
        "vocab_size": sizes.vocabulary,
        "attention.head_count_kv": 1,
        "attention.key_length": rank + rotated,
        "attention.value_length": rank,
        "attention.key_length_mla": plain + rotated,
        "attention.value_length_mla": value,
        "attention.kv_lora_rank": rank,
        **({"attention.q_lora_rank": query_rank} if query_rank else {}),
        "rope.dimension_count": rotated,
        **({"rope.scaling.yarn_log_multiplier": 0.1 * growth} if growth else {}),
        "leading_dense_block_count": _dense(config, sizes),
        "expert_feed_forward_length": sizes.expert_width or sizes.feed_forward,
        "expert_shared_count": config.count("n_shared_experts", default=0, least=0),
        **(_mixture(scores, config) if sizes.experts else {}),
    }


def _mixture(scores: str, config: Fields) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "expert_gating_func": _SCORES[scores],
        "expert_weights_scale": config.number("routed_scaling_factor", default=_SCALES[scores]),
    }
    if config.flag("norm_topk_prob", default=scores == "sigmoid"):
        keys["expert_weights_norm"] = True
    # Nothing is done with the groups where experts are chosen among all.
    grouped = _method(scores, config) != "greedy"
    groups, used = (config.count(name, default=1) if grouped else 1 for name in ("n_group", "topk_group"))
    return keys | {"expert_group_count": groups, "expert_group_used_count": used}


def _method(scores: str, config: Fields) -> str:
    return config.text("topk_method", default=_METHODS[scores][0])


def _check(scores: str, config: Fields, sizes: Sizes) -> None:
    if config.text("scoring_func", default=scores) != scores:
        raise UnsupportedModel(f"config.json: scoring_func is not supported, only {scores}")
    if _method(scores, config) not in _METHODS[scores]:
        raise UnsupportedModel(f"config.json: topk_method {shown(_method(scores, config))} is not supported")
    if scores == "softmax" and config.flag("norm_topk_prob", default=False):
        raise UnsupportedModel("config.json: norm_topk_prob is not supported in DeepSeek V2")
    dense = _dense(config, sizes)
    kinds = [_DENSE] * dense + [_SPARSE] * (sizes.layers - dense)
    if config.count("moe_layer_freq", default=1) != 1 or config.values.get("mlp_layer_types") not in (
        None,
        kinds,
    ):
        raise UnsupportedModel("config.json: layers without experts among those with them are not supported")
    if not config.flag("rope_interleave", default=True):
        raise UnsupportedModel("config.json: rope_interleave must not be false")
    stated = global_rope(config).values
    growth = stated.get("mscale_all_dim")
    if growth and (stated.get("mscale") != growth or stated.get("attention_factor") is not None):
        raise UnsupportedModel(
            f"config.json: mscale {shown(stated.get('mscale'))} or an attention_factor beside mscale_all_dim "
            f"{shown(growth)} is not supported"
        )


DEEPSEEK2 = Family(
    "deepseek2",
    PRE_NORMS,
    of_layer=_layer,
    keys=partial(_keys, "softmax"),
    check=partial(_check, "softmax"),
    rotary=partial(rotary_keys, magnitude=False),
    prepare=_prepared,
)

DEEPSEEK3 = replace(DEEPSEEK2, keys=partial(_keys, "sigmoid"), check=partial(_check, "sigmoid"))
