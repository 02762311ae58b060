"""OLMo 2 and 3: norms after attention and feed-forward, and of all heads' queries and keys together."""

from typing import Any

from puna.convert.decoder import Family, Sizes, Weight
from puna.convert.folder import Fields
from puna.convert.layers import FEED_FORWARD, attention, norms
from puna.convert.rotary import local_theta
from puna.convert.windows import local_layers

_PERIOD = 4


def _keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    """OLMo 2 has no window."""
    if config.values.get("sliding_window") is None:
        return {}
    theta = local_theta(config)
    return {
        **({} if theta is None else {"rope.freq_base_swa": theta}),
        "attention.sliding_window": config.count("sliding_window"),
        "attention.sliding_window_pattern": local_layers(config, sizes.layers, _PERIOD),
    }


OLMO2 = Family(
    "olmo2",
    {
        **attention(),
        "self_attn.q_norm.weight": Weight("attn_q_norm.weight", ("queries",)),
        "self_attn.k_norm.weight": Weight("attn_k_norm.weight", ("keys",)),
        **norms(
            {
                "post_attention_layernorm": "post_attention_norm",
                "post_feedforward_layernorm": "post_ffw_norm",
            }
        ),
        **FEED_FORWARD,
    },
    keys=_keys,
)
