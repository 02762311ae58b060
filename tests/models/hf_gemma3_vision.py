"""Tiny models of Gemma 3 that see, with random weights: as transformers has them, and as GGUF files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tests.models.hf_models import randomised
from tests.models.hf_to_gguf import write

from puna.images.pixels import Pixels

VOCABULARY, PICTURE = 97, 96
IMAGE, PATCH, TOKENS = 56, 7, 4

_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": IMAGE,
    "patch_size": PATCH,
    "vision_use_head": False,
}
_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "max_position_embeddings": 256,
    "sliding_window": 8,
    "sliding_window_pattern": 3,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def gemma3(seed: int, **text: Any) -> Any:
    """A Gemma3ForConditionalGeneration; the arguments are keys of its text's config."""
    config = transformers.Gemma3Config(
        vision_config=_VISION,
        text_config=_TEXT | text,
        mm_tokens_per_image=TOKENS,
        image_token_index=PICTURE,
    )
    config._attn_implementation = "eager"
    return randomised(transformers.Gemma3ForConditionalGeneration(config), seed, 1.5, 0.25)


def features(model: Any, pixels: Pixels) -> NDArray[np.float32]:
    """What transformers makes of a picture, F32 (tokens, hidden)."""
    with torch.no_grad():
        values = torch.from_numpy(pixels.tiles)
        states = model.model.vision_tower(pixel_values=values).last_hidden_state
        result: NDArray[np.float32] = model.model.multi_modal_projector(states)[0].numpy()
    return result


def logits(model: Any, tokens: Sequence[int], pictures: Sequence[Pixels] = ()) -> NDArray[np.float32]:
    """What transformers computes, F32 (tokens, vocabulary); a picture is `TOKENS` of its token."""
    ids = torch.tensor([list(tokens)])
    values = torch.from_numpy(np.concatenate([one.tiles for one in pictures])) if pictures else None
    with torch.no_grad():
        found = model(input_ids=ids, pixel_values=values, token_type_ids=(ids == PICTURE).long())
        result: NDArray[np.float32] = found.logits[0].numpy()
    return result


_INNER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "layer_norm1": "layer_norm1",
    "layer_norm2": "layer_norm2",
}


def write_gemma3_vision(path: Path, model: Any, keys: dict[str, Any] | None = None) -> None:
    """Writes the model with the names of Ollama's converter; `keys` are further ones."""
    config, text = model.config, _text(model)
    own = _keys(config) | {"mm.tokens_per_image": config.mm_tokens_per_image}
    write(path, "gemma3", _text_keys(config.text_config) | own | (keys or {}), _vision(model) | text)


def write_gemma3_text(path: Path, model: Any) -> None:
    """Writes the decoder alone."""
    write(path, "gemma3", _text_keys(model.config.text_config), _text(model))


_OF_LLAMA_CPP = {
    "patch_embedding": "patch_embd",
    "position_embedding": "position_embd",
    "post_layernorm": "post_ln",
    "attn_output": "attn_out",
    "layer_norm": "ln",
    "mm.mm_": "mm.",
}


def write_gemma3_projector(
    path: Path, model: Any, *, swapped: bool = False, keys: dict[str, Any] | None = None
) -> None:
    """Writes the image encoder with the names of llama.cpp's converter.

    Args:
        swapped: with those of the feed-forward network's matrices the wrong way round.
        keys: further ones.
    """
    up, down = ("ffn_down", "ffn_up") if swapped else ("ffn_up", "ffn_down")
    tensors = {}
    for name, value in _vision(model).items():
        for theirs, ours in (_OF_LLAMA_CPP | {"mlp.fc1": up, "mlp.fc2": down}).items():
            name = name.replace(theirs, ours)
        tensors[name] = value
    own = _keys(model.config) | {"projector_type": "gemma3", "has_vision_encoder": True}
    write(path, "clip", own | (keys or {}), tensors)


_TEXT_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _text(model: Any) -> dict[str, Any]:
    """The decoder's tensors, whose head is its table of embeddings."""
    tensors: dict[str, Any] = {}
    for name, value in model.model.language_model.state_dict().items():
        array = value.numpy() + 1 if name.endswith("norm.weight") else value.numpy()
        if name.startswith("layers."):
            _, index, part = name.split(".", 2)
            tensors[f"blk.{index}.{_TEXT_NAMES[part.removesuffix('.weight')]}.weight"] = array
        else:
            tensors[{"norm.weight": "output_norm.weight"}.get(name, "token_embd.weight")] = array
    return tensors


def _text_keys(config: Any) -> dict[str, Any]:
    rope = config.rope_parameters
    return {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in config.layer_types],
        "rope.freq_base": float(rope["full_attention"]["rope_theta"]),
        "rope.freq_base_swa": float(rope["sliding_attention"]["rope_theta"]),
    }


def _vision(model: Any) -> dict[str, Any]:
    """The image encoder's tensors, with Ollama's names."""
    tensors: dict[str, Any] = {}
    for name, value in model.state_dict().items():
        name = name.removeprefix("model.")
        if name == "multi_modal_projector.mm_input_projection_weight":
            tensors["mm.mm_input_projection.weight"] = value.numpy()
        elif name == "multi_modal_projector.mm_soft_emb_norm.weight":
            tensors["mm.mm_soft_emb_norm.weight"] = value.numpy() + 1
        elif name.startswith("vision_tower."):
            tensors[_of_tower(name)] = value.numpy()
    return tensors


def _keys(config: Any) -> dict[str, Any]:
    vision = config.vision_config
    return {
        "vision.block_count": vision.num_hidden_layers,
        "vision.embedding_length": vision.hidden_size,
        "vision.feed_forward_length": vision.intermediate_size,
        "vision.image_size": vision.image_size,
        "vision.patch_size": vision.patch_size,
        "vision.num_channels": vision.num_channels,
        "vision.attention.head_count": vision.num_attention_heads,
        "vision.attention.layer_norm_epsilon": vision.layer_norm_eps,
    }


def _of_tower(name: str) -> str:
    name = name.removeprefix("vision_tower.").removeprefix("vision_model.")
    if name.startswith("encoder.layers."):
        _, _, index, part = name.split(".", 3)
        stem, suffix = part.rsplit(".", 1)
        return f"v.blk.{index}.{_INNER[stem]}.{suffix}"
    return "v." + name.removeprefix("embeddings.")
