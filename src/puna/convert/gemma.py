"""Gemma 2 and 3. The weights of norms are stored as differences from 1."""

from dataclasses import replace
from typing import Any

from puna.convert.decoder import Defaults, Family, Sizes
from puna.convert.folder import Fields, shown
from puna.convert.layers import FEED_FORWARD, HEAD_NORMS, attention, norms
from puna.convert.rotary import local_theta
from puna.convert.seeing import SCOPES
from puna.convert.windows import local_layers
from puna.errors import UnsupportedModel

_NORMS = norms(
    {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    }
)
_ACTIVATIONS = ("gelu_pytorch_tanh", "gelu_tanh")
# The largest of each scales scores by the width of a head's share of the state; no key says so.
_LAYERS_27B = {"gemma2": 46, "gemma3": 62}
_LOCAL_THETA = 10000.0
_PERIODS = {"gemma2": 2, "gemma3": 6}


def _check_scale(architecture: str, config: Fields, sizes: Sizes) -> None:
    large = sizes.layers == _LAYERS_27B[architecture]
    usual = sizes.hidden // sizes.heads if large else sizes.head
    scalar = config.number("query_pre_attn_scalar", default=float(usual))
    if scalar != usual:
        raise UnsupportedModel(
            f"config.json: query_pre_attn_scalar {shown(scalar)} is not supported, only {usual}"
        )


def _check_gemma2(config: Fields, sizes: Sizes) -> None:
    _check_scale("gemma2", config, sizes)


def _check_gemma3(config: Fields, sizes: Sizes) -> None:
    _check_scale("gemma3", config, sizes)
    if config.values.get("attn_logit_softcapping") is not None:
        raise UnsupportedModel("config.json: attn_logit_softcapping is not supported in Gemma 3")


def _gemma2_keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    return {
        "attn_logit_softcapping": _softcap(config, "attn_logit_softcapping", 50.0),
        "final_logit_softcapping": _softcap(config, "final_logit_softcapping", 30.0),
        "attention.sliding_window": config.count("sliding_window", default=4096),
        **_pattern("gemma2", config, sizes),
    }


def _softcap(config: Fields, name: str, usual: float) -> float:
    """A limit, 0 where the configuration says that there is none."""
    return 0.0 if config.values.get(name, usual) is None else config.number(name, default=usual)


def _gemma3_keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    capped = config.values.get("final_logit_softcapping")
    softcap = {"final_logit_softcapping": config.number("final_logit_softcapping")} if capped else {}
    return {
        "attention.sliding_window": config.count("sliding_window", default=4096),
        "rope.freq_base_swa": local_theta(config) or _LOCAL_THETA,
        **softcap,
        **_pattern("gemma3", config, sizes),
    }


def _pattern(architecture: str, config: Fields, sizes: Sizes) -> dict[str, Any]:
    """Which layers have the window, where it is not as usual."""
    usual = _PERIODS[architecture]
    period = config.count("sliding_window_pattern", "_sliding_window_pattern", default=usual)
    local = local_layers(config, sizes.layers, period)
    if local == local_layers(Fields({}), sizes.layers, usual):
        return {}
    return {"attention.sliding_window_pattern": local}


GEMMA2 = Family(
    "gemma2",
    {**_NORMS, **attention(), **FEED_FORWARD},
    keys=_gemma2_keys,
    check=_check_gemma2,
    activations=_ACTIVATIONS,
    norm_offset=1.0,
    defaults=Defaults(tied=True),
)

GEMMA3 = Family(
    "gemma3",
    {**_NORMS, **attention(), **HEAD_NORMS, **FEED_FORWARD},
    keys=_gemma3_keys,
    check=_check_gemma3,
    activations=_ACTIVATIONS,
    norm_offset=1.0,
    defaults=Defaults(theta=1000000.0, heads=8, kv_heads=4, head=256, context=131072, eps=1e-6, tied=True),
)

GEMMA3_WITH_PICTURES = replace(GEMMA3, dropped=SCOPES)
