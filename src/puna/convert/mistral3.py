"""Ministral 3: Llama's build, whose queries grow with their position."""

from dataclasses import replace
from functools import partial
from typing import Any

from puna.convert.decoder import Sizes
from puna.convert.folder import Fields, shown
from puna.convert.llama import MISTRAL
from puna.convert.rotary import global_rope, rotary_keys
from puna.errors import UnsupportedModel

_PLAIN, _TEMPERED = "mistral", "ministral3"


def _keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    usual = {**MISTRAL.keys(config, sizes)}
    if _kind(config) == _PLAIN:
        return usual
    rope = global_rope(config)
    return usual | {
        "rope.scaling.yarn_log_multiplier": rope.number("mscale_all_dim"),
        "attention.temperature_scale": rope.number("llama_4_scaling_beta"),
    }


def _kind(config: Fields) -> str:
    return config.text("model_type", default=_TEMPERED)


def _check(config: Fields, sizes: Sizes) -> None:
    rope, kind = global_rope(config), _kind(config)
    if kind not in (_PLAIN, _TEMPERED):
        raise UnsupportedModel(f"config.json: a text of model_type {shown(kind)} is not supported")
    if kind == _TEMPERED and (rope.values.get("rope_type"), rope.values.get("mscale")) != ("yarn", 1.0):
        raise UnsupportedModel("config.json: Ministral 3 is supported with YaRN and an mscale of 1 only")


MINISTRAL3 = replace(
    MISTRAL,
    architecture="mistral3",
    keys=_keys,
    check=_check,
    rotary=partial(rotary_keys, magnitude=False),
)
