"""SigLIP (Zhai et al., arXiv:2303.15343) as the image encoder of Gemma 3."""

from puna.convert.plan import Target
from puna.convert.seeing import Encoder, Seen, check, layers, linear, norm

_EPS = 1e-6
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output",
}


def siglip(seen: Seen) -> Encoder:
    """The encoder. Raises: FormatError, UnsupportedModel."""
    vision = seen.vision
    check(vision, "hidden_act", "gelu_pytorch_tanh", "gelu_pytorch_tanh")
    check(vision, "num_channels", 3, 3)
    hidden, wide = vision.count("hidden_size"), vision.count("intermediate_size")
    count, image, patch = layers(vision), vision.count("image_size"), vision.count("patch_size")
    keys = {
        "vision.block_count": count,
        "vision.embedding_length": hidden,
        "vision.feed_forward_length": wide,
        "vision.image_size": image,
        "vision.patch_size": patch,
        "vision.num_channels": 3,
        "vision.attention.head_count": vision.count("num_attention_heads"),
        "vision.attention.layer_norm_epsilon": vision.number("layer_norm_eps", default=_EPS),
        "mm.tokens_per_image": seen.config.count("mm_tokens_per_image", default=256),
    }
    tower, embeddings, projector = "vision_tower.", "vision_tower.embeddings.", "multi_modal_projector."
    targets = {
        f"{embeddings}patch_embedding.weight": Target("v.patch_embedding.weight", (hidden, 3, patch, patch)),
        f"{embeddings}patch_embedding.bias": Target("v.patch_embedding.bias", (hidden,)),
        f"{embeddings}position_embedding.weight": Target(
            "v.position_embedding.weight", ((image // patch) ** 2, hidden)
        ),
        **norm(f"{tower}post_layernorm", "v.post_layernorm", hidden, bias=True),
        # Stored as the difference from 1, as the norms of the text are.
        f"{projector}mm_soft_emb_norm.weight": Target("mm.mm_soft_emb_norm.weight", (hidden,), offset=1.0),
        f"{projector}mm_input_projection_weight": Target(
            "mm.mm_input_projection.weight", (hidden, seen.text.count("hidden_size")), matrix=True
        ),
    }
    for index in range(count):
        theirs, ours = f"{tower}encoder.layers.{index}", f"v.blk.{index}"
        for name, own in _LAYER.items():
            targets |= linear(f"{theirs}.{name}", f"{ours}.{own}", hidden, hidden, bias=True)
        for name in ("layer_norm1", "layer_norm2"):
            targets |= norm(f"{theirs}.{name}", f"{ours}.{name}", hidden, bias=True)
        targets |= linear(f"{theirs}.mlp.fc1", f"{ours}.mlp.fc1", hidden, wide, bias=True)
        targets |= linear(f"{theirs}.mlp.fc2", f"{ours}.mlp.fc2", wide, hidden, bias=True)
    # What makes one vector of a picture.
    return Encoder(keys, targets, unused=(f"{tower}head.",))
