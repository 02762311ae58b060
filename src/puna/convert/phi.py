"""Phi 3 and 4: queries, keys and values in one matrix, and two sets of factors for long contexts."""

import math
from typing import Any

from puna.convert.decoder import Family, Sizes, Weight
from puna.convert.folder import Fields, shown
from puna.convert.layers import PRE_NORMS
from puna.convert.rotary import global_rope, rotary_factors, rotary_keys, rotated_part
from puna.errors import FormatError

# All of them are names of LongRoPE (arXiv:2402.13753) in these models.
_LONG = ("longrope", "su", "yarn")
_CONTEXT = 4096


def _is_long(rope: Fields) -> bool:
    return rope.text("rope_type", "type", default="default") in _LONG


def _original(config: Fields) -> int:
    """The longest text that needs no factors for long ones."""
    name = "original_max_position_embeddings"
    return global_rope(config).count(name, default=config.count(name, default=_CONTEXT))


def _rotary(config: Fields, context: int, theta: float) -> dict[str, Any]:
    rope = global_rope(config)
    if not _is_long(rope):
        return rotary_keys(config, context, theta, part=True)
    return {
        "rope.freq_base": rope.number("rope_theta", default=config.number("rope_theta", default=theta)),
        "rope.scaling.attn_factor": rope.number(
            "attention_factor", default=_magnitude(config, rope, context)
        ),
    }


def _magnitude(config: Fields, rope: Fields, context: int) -> float:
    """What rotated vectors are multiplied with."""
    original = _original(config)
    stretch = rope.number("factor", default=context / original)
    return math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 < original else 1.0


def _factors(config: Fields, head: int, theta: float) -> dict[str, list[float]]:
    rope, pairs = global_rope(config), int(head * rotated_part(config)) // 2
    if not _is_long(rope):
        return rotary_factors(config, head, theta)
    return {
        f"rope_factors_{kind}.weight": _numbers(rope, f"{kind}_factor", pairs) for kind in ("long", "short")
    }


def _numbers(rope: Fields, name: str, count: int) -> list[float]:
    stated = rope.values.get(name)
    if not isinstance(stated, list) or len(stated) != count:
        raise FormatError(f"{rope.source}: {name!r} must be {count} numbers, not {shown(stated)}")
    return [Fields({name: number}, rope.source).number(name) for number in stated]


def _keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    return {
        "rope.dimension_count": int(sizes.head * rotated_part(config)),
        "rope.scaling.original_context_length": _original(config),
        "attention.sliding_window": config.count("sliding_window", default=0, least=0),
    }


PHI3 = Family(
    "phi3",
    {
        **PRE_NORMS,
        "self_attn.qkv_proj.weight": Weight("attn_qkv.weight", ("queries_keys_values", "hidden")),
        "self_attn.o_proj.weight": Weight("attn_output.weight", ("hidden", "queries")),
        "mlp.gate_up_proj.weight": Weight("ffn_up.weight", ("gate_and_up", "hidden")),
        "mlp.down_proj.weight": Weight("ffn_down.weight", ("hidden", "feed_forward")),
    },
    keys=_keys,
    rotary=_rotary,
    factors=_factors,
)
