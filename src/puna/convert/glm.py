"""GLM 4: norms before and after both parts of a layer, and a part of each head that is rotated."""

from functools import partial
from typing import Any

from puna.convert.decoder import Family, Sizes, Weight
from puna.convert.folder import Fields
from puna.convert.layers import attention, norms
from puna.convert.rotary import rotary_keys, rotated_part


def _keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    return {"rope.dimension_count": int(sizes.head * rotated_part(config, 0.5))}


GLM4 = Family(
    "glm4",
    {
        **norms(
            {
                "input_layernorm": "attn_norm",
                "post_self_attn_layernorm": "post_attention_norm",
                "post_attention_layernorm": "ffn_norm",
                "post_mlp_layernorm": "post_ffw_norm",
            }
        ),
        **attention(),
        "mlp.gate_up_proj.weight": Weight("ffn_up.weight", ("gate_and_up", "hidden")),
        "mlp.down_proj.weight": Weight("ffn_down.weight", ("hidden", "feed_forward")),
    },
    keys=_keys,
    rotary=partial(rotary_keys, part=True),
)
