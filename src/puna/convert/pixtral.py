"""Pixtral (arXiv:2410.07073), and Mistral Small 3.1 and Ministral 3, which see through its image encoder."""

from dataclasses import replace

from puna.convert.decoder import Defaults
from puna.convert.folder import Fields
from puna.convert.llama import MISTRAL
from puna.convert.mistral3 import MINISTRAL3
from puna.convert.plan import Target
from puna.convert.seeing import SCOPES, Encoder, Seen, check, layers, linear, norm

_TOWER, _PROJECTOR = SCOPES
_LAYER = {
    "attention.q_proj": "attn_q",
    "attention.k_proj": "attn_k",
    "attention.v_proj": "attn_v",
    "attention.o_proj": "attn_output",
}


PIXTRAL = replace(MISTRAL, defaults=Defaults(heads=32, kv_heads=8, head=128), dropped=SCOPES)
MISTRAL3 = replace(MINISTRAL3, dropped=SCOPES)


def pixtral(seen: Seen) -> Encoder:
    """Pixtral's own, in which each patch becomes a token. Raises: FormatError, UnsupportedModel."""
    check(seen.config, "vision_feature_select_strategy", "full", "default")
    check(seen.config, "vision_feature_layer", -1, -2)
    return _encoder(seen, biases=True)


def merging(seen: Seen) -> Encoder:
    """Mistral 3's, in which each square of patches becomes a token. Raises: FormatError, UnsupportedModel."""
    merge = seen.config.count("spatial_merge_size", default=2)
    check(seen.config, "vision_feature_layer", -1, -1)
    found, hidden = _encoder(seen, biases=False), _hidden(seen.vision)
    merger = f"{_PROJECTOR}patch_merger.merging_layer"
    targets = {
        **norm(f"{_PROJECTOR}norm", "mm.norm", hidden),
        **linear(merger, "mm.patch_merger.merging_layer", hidden * merge**2, hidden),
    }
    return Encoder({**found.keys, "spatial_merge_size": merge}, {**found.targets, **targets})


def _hidden(vision: Fields) -> int:
    return vision.count("hidden_size", default=1024)


def _encoder(seen: Seen, *, biases: bool) -> Encoder:
    """What both have. `biases` is whether the projection has them, where the configuration does not say."""
    vision = seen.vision
    check(vision, "model_type", "pixtral", "pixtral")
    check(vision, "hidden_act", "silu", "gelu")
    check(vision, "num_channels", 3, 3)
    check(seen.config, "projector_hidden_act", "gelu", "gelu")
    hidden, wide = _hidden(vision), vision.count("intermediate_size", default=4096)
    count, patch = layers(vision, 24), vision.count("patch_size", default=16)
    image, heads = vision.count("image_size", default=1024), vision.count("num_attention_heads", default=16)
    rope = Fields(vision.mapping("rope_parameters"), vision.source)
    size = Fields(seen.processor.mapping("size"), seen.processor.source)
    biases = seen.config.flag("multimodal_projector_bias", default=biases)
    keys = {
        "vision.block_count": count,
        "vision.embedding_length": hidden,
        "vision.feed_forward_length": wide,
        "vision.attention.head_count": heads,
        "vision.attention.key_length": hidden // heads,
        "vision.image_size": image,
        "vision.longest_edge": size.count("longest_edge", default=image),
        "vision.patch_size": patch,
        "vision.num_channels": 3,
        "vision.rope.freq_base": rope.number("rope_theta", default=vision.number("rope_theta", default=1e4)),
        "image_token_index": seen.config.count("image_token_index", "image_token_id", default=10),
        "mm.projector_bias": biases,
    }
    text = seen.text.count("hidden_size")
    targets = {
        f"{_TOWER}patch_conv.weight": Target("v.patch_conv.weight", (hidden, 3, patch, patch)),
        **norm(f"{_TOWER}ln_pre", "v.encoder_norm", hidden),
        **linear(f"{_PROJECTOR}linear_1", "mm.linear_1", hidden, text, bias=biases),
        **linear(f"{_PROJECTOR}linear_2", "mm.linear_2", text, text, bias=biases),
    }
    for index in range(count):
        theirs, ours = f"{_TOWER}transformer.layers.{index}", f"v.blk.{index}"
        for name, own in _LAYER.items():
            targets |= linear(f"{theirs}.{name}", f"{ours}.{own}", hidden, hidden)
        for name in ("attention_norm", "ffn_norm"):
            targets |= norm(f"{theirs}.{name}", f"{ours}.{name.replace('attention', 'attn')}", hidden)
        for name in ("gate", "up"):
            targets |= linear(f"{theirs}.feed_forward.{name}_proj", f"{ours}.ffn_{name}", hidden, wide)
        targets |= linear(f"{theirs}.feed_forward.down_proj", f"{ours}.ffn_down", wide, hidden)
    return Encoder(keys, targets)
