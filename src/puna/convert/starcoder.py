"""StarCoder 2: norms that subtract the mean, with biases, and a feed-forward network of two matrices."""

from typing import Any

from puna.convert.decoder import Defaults, Family, Layer, Sizes, Weight
from puna.convert.folder import Fields
from puna.convert.layers import PRE_NORMS, attention


def _keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    window = config.count("sliding_window", default=0, least=0)
    return {"attention.sliding_window": window} if window else {}


_BIASES: Layer = {
    f"{theirs}.bias": Weight(f"{ours}.bias", ("hidden",))
    for theirs, ours in {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}.items()
}

STARCODER2 = Family(
    "starcoder2",
    {
        **PRE_NORMS,
        **_BIASES,
        **attention(),
        "mlp.c_fc.weight": Weight("ffn_up.weight", ("feed_forward", "hidden")),
        "mlp.c_fc.bias": Weight("ffn_up.bias", ("feed_forward",), optional=True),
        "mlp.c_proj.weight": Weight("ffn_down.weight", ("hidden", "feed_forward")),
        "mlp.c_proj.bias": Weight("ffn_down.bias", ("hidden",), optional=True),
    },
    outer=lambda config, sizes: {"norm.bias": Weight("output_norm.bias", ("hidden",))},
    keys=_keys,
    activations=("gelu_pytorch_tanh",),
    layer_norm=True,
    defaults=Defaults(eps=1e-5, tied=True),
)
