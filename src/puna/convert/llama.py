"""Llama, Mistral and Mixtral, and Granite, which adds four factors. Their files are all of Llama's build."""

from dataclasses import replace
from typing import Any

from puna.convert.decoder import Defaults, Family, Sizes
from puna.convert.folder import Fields
from puna.convert.layers import EXPERTS, FEED_FORWARD, PRE_NORMS, attention
from puna.errors import UnsupportedModel


def _llama_keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    return {"vocab_size": sizes.vocabulary, "rope.dimension_count": sizes.head}


LLAMA = Family("llama", {**PRE_NORMS, **attention(pairs=True), **FEED_FORWARD}, keys=_llama_keys)


def _mistral_keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    """Llama's build has no window, so texts are kept to what a window would let every token see."""
    windowed = config.values.get("sliding_window") is not None
    longest = min(sizes.context, config.count("sliding_window")) if windowed else sizes.context
    return _llama_keys(config, sizes) | {"context_length": longest}


MISTRAL = replace(LLAMA, keys=_mistral_keys)

MIXTRAL = Family(
    "llama",
    {**PRE_NORMS, **attention(pairs=True), **EXPERTS},
    keys=_mistral_keys,
    defaults=Defaults(theta=1000000.0),
)

# GGUF's keys, by the configuration's.
_FACTORS = {
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}


def _granite_keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    factors = {key: config.number(name, default=1.0) for name, key in _FACTORS.items()}
    return _llama_keys(config, sizes) | factors


def _check_granite(config: Fields, sizes: Sizes) -> None:
    if config.values.get("position_embedding_type") not in (None, "rope"):
        raise UnsupportedModel("config.json: Granite without rotary positions is not supported")


GRANITE = Family(
    "granite",
    {**PRE_NORMS, **attention(pairs=True), **FEED_FORWARD},
    keys=_granite_keys,
    check=_check_granite,
)
