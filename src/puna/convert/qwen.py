"""Qwen 2 and 3, with and without a mixture of experts."""

from typing import Any

from puna.convert.decoder import Family, Sizes
from puna.convert.folder import Fields
from puna.convert.layers import EXPERTS, FEED_FORWARD, HEAD_NORMS, PRE_NORMS, SHARED_EXPERT, attention
from puna.errors import UnsupportedModel


def _check(config: Fields, sizes: Sizes) -> None:
    """Windows are for layers from a number on, which is that of all layers in what was published."""
    first = config.count("max_window_layers", default=sizes.layers, least=0)
    if config.flag("use_sliding_window", default=False) and first < sizes.layers:
        raise UnsupportedModel("config.json: use_sliding_window is not supported in Qwen's models")


def _check_mixture(config: Fields, sizes: Sizes) -> None:
    _check(config, sizes)
    if config.count("decoder_sparse_step", default=1) != 1 or config.values.get("mlp_only_layers"):
        raise UnsupportedModel("config.json: layers without experts among those with them are not supported")


def _mixture_keys(config: Fields, *, normalised: bool) -> dict[str, Any]:
    """Readers take for granted whether the experts' shares add up to 1, so only the other case is written."""
    stated = config.flag("norm_topk_prob", default=normalised)
    return {} if stated is normalised else {"expert_weights_norm": stated}


def _qwen2moe_keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    return {
        "expert_feed_forward_length": sizes.expert_width,
        "expert_shared_feed_forward_length": sizes.shared_width,
        **_mixture_keys(config, normalised=False),
    }


def _qwen3moe_keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    return {"expert_feed_forward_length": sizes.expert_width, **_mixture_keys(config, normalised=True)}


QWEN2 = Family("qwen2", {**PRE_NORMS, **attention(), **FEED_FORWARD}, check=_check)

QWEN2MOE = Family(
    "qwen2moe",
    {**PRE_NORMS, **attention(), **EXPERTS, **SHARED_EXPERT},
    keys=_qwen2moe_keys,
    check=_check_mixture,
)

QWEN3 = Family("qwen3", {**PRE_NORMS, **attention(), **HEAD_NORMS, **FEED_FORWARD}, check=_check)

QWEN3MOE = Family(
    "qwen3moe",
    {**PRE_NORMS, **attention(), **HEAD_NORMS, **EXPERTS},
    keys=_qwen3moe_keys,
    check=_check_mixture,
)
