"""Rotary position embeddings, as configurations describe them, and what GGUF files say of them.

Old configurations have `rope_theta` and `rope_scaling`; new ones have `rope_parameters`, for each kind of
layer where kinds differ.
"""

import math
from collections.abc import Mapping
from typing import Any

from puna.convert.folder import Fields, shown
from puna.errors import FormatError, UnsupportedModel

_OPTIONAL = {
    "rope.scaling.yarn_ext_factor": ("extrapolation_factor",),
    "rope.scaling.yarn_attn_factor": ("attention_factor", "attn_factor"),
    "rope.scaling.yarn_beta_fast": ("beta_fast",),
    "rope.scaling.yarn_beta_slow": ("beta_slow",),
}


def rotary_keys(
    config: Fields,
    context: int,
    theta: float,
    *,
    part: bool = False,
    magnitude: bool = True,
    multi: bool = False,
) -> dict[str, Any]:
    """The keys, without the architecture before them.

    Args:
        context: the longest text.
        theta: the base where the configuration names none.
        part: a part of each head may be rotated, which another key says.
        magnitude: what YaRN multiplies with is said by a key where `mscale` makes it unusual.
        multi: parts of each head go by the row and the column in a picture, see `sections`.

    Raises:
        FormatError: a value makes no sense.
        UnsupportedModel: another kind of embedding.
    """
    rope = global_rope(config)
    keys: dict[str, Any] = {"rope.freq_base": _theta(config, rope, theta)}
    if (rotated_part(config) != 1 and not part) or ("mrope_section" in rope.values and not multi):
        raise UnsupportedModel(f"{rope.source}: rotation of only a part of each head is not supported")
    kind = _kind(rope)
    if kind in ("linear", "yarn"):
        keys |= {"rope.scaling.type": kind, "rope.scaling.factor": rope.number("factor")}
    if kind == "yarn":
        original = rope.count("original_max_position_embeddings", default=context)
        keys["rope.scaling.original_context_length"] = original
        keys |= {
            key: rope.number(*names)
            for key, names in _OPTIONAL.items()
            if any(rope.values.get(name) is not None for name in names)
        }
    if kind == "yarn" and magnitude and rope.values.get("mscale") and rope.values.get("mscale_all_dim"):
        keys.setdefault("rope.scaling.yarn_attn_factor", _magnitude(rope, "mscale", "mscale_all_dim"))
    return keys


def sections(config: Fields) -> list[int]:
    """How many pairs of a head's dimensions go by time, row and column. Raises: FormatError."""
    found = global_rope(config).values.get("mrope_section")
    if not isinstance(found, list) or not all(type(pairs) is int and 0 <= pairs < 1 << 16 for pairs in found):
        raise FormatError(f"config.json: mrope_section must be a list of whole numbers, not {shown(found)}")
    return found


def _magnitude(rope: Fields, *names: str) -> float:
    """What YaRN multiplies rotated vectors with, where two factors of its logarithm are named."""
    growth = 0.1 * math.log(max(rope.number("factor"), 1.0))
    upper, lower = (1 + growth * rope.number(name) for name in names)
    return upper / lower


def rotated_part(config: Fields, default: float = 1.0) -> float:
    """The part of each head that is rotated. Raises: FormatError."""
    name = "partial_rotary_factor"
    return global_rope(config).number(name, default=config.number(name, default=default))


def rotary_factors(config: Fields, head: int, theta: float) -> dict[str, list[float]]:
    """What each frequency is divided by in Llama 3.1: nothing where it is fast, all where it is slow.

    By the name of the tensor; none for other kinds of scaling. Source: Llama Team, arXiv:2407.21783, and the
    configurations' `llama3`.

    Raises:
        FormatError: a value makes no sense.
    """
    rope = global_rope(config)
    if _kind(rope) != "llama3":
        return {}
    base, factor = _theta(config, rope, theta), rope.number("factor", default=8.0)
    context = rope.count("original_max_position_embeddings", default=8192)
    low, high = rope.number("low_freq_factor", default=1.0), rope.number("high_freq_factor", default=4.0)
    frequencies = [base ** (-2 * pair / head) for pair in range(head // 2)]
    return {"rope_freqs.weight": [_factor(each, factor, context, low, high) for each in frequencies]}


def _factor(frequency: float, factor: float, context: int, low: float, high: float) -> float:
    turns = context * frequency / (2 * math.pi)
    if turns > high:
        return 1.0
    if turns < low or high == low:
        return factor
    smooth = (turns - low) / (high - low)
    return 1 / ((1 - smooth) / factor + smooth)


def global_rope(config: Fields) -> Fields:
    """The embedding of layers that see everything."""
    return _of_kind(config, "full_attention")


def local_theta(config: Fields) -> float | None:
    """The base of layers that have a window, if the configuration names one. Raises: FormatError."""
    if _kinds(config):
        return _of_kind(config, "sliding_attention").number("rope_theta")
    named = config.values.get("rope_local_base_freq") is not None
    return config.number("rope_local_base_freq") if named else None


def _kinds(config: Fields) -> bool:
    return "full_attention" in config.mapping("rope_parameters")


def _of_kind(config: Fields, kind: str) -> Fields:
    values: Mapping[str, Any] = config.mapping("rope_parameters") or config.mapping("rope_scaling")
    if _kinds(config):
        values = Fields(dict(values), "config.json, rope_parameters").mapping(kind)
    return Fields(dict(values), "config.json, rope_parameters")


def _theta(config: Fields, rope: Fields, default: float) -> float:
    return rope.number("rope_theta", default=config.number("rope_theta", default=default))


def _kind(rope: Fields) -> str:
    """None, linear, YaRN or Llama 3's; a dynamic one changes nothing within the longest text."""
    kind = rope.text("rope_type", "type", default="default").lower()
    if kind not in ("default", "dynamic", "linear", "yarn", "llama3", "mrope"):
        raise UnsupportedModel(f"{rope.source}: rotary embeddings scaled by {shown(kind)} are not supported")
    return kind
