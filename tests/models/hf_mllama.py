"""Tiny models of Llama 3.2 Vision with random weights: as transformers has them, and as GGUF files."""

import math
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

VOCABULARY, PICTURE = 96, 96
IMAGE, PATCH, TILES = 28, 14, 4
ROWS = (IMAGE // PATCH) ** 2 + 1
CONTEXT = 256

_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_global_layers": 2,
    "attention_heads": 4,
    "intermediate_size": 48,
    "image_size": IMAGE,
    "patch_size": PATCH,
    "max_num_tiles": TILES,
    "intermediate_layers_indices": [0, 1],
    "vision_output_dim": 96,
    "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
}
_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "cross_attention_layers": [1, 3],
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}


def mllama(seed: int, *, vision: dict[str, Any] | None = None, **text: Any) -> Any:
    """A MllamaForConditionalGeneration; the arguments are keys of the two configs."""
    config = transformers.MllamaConfig(
        vision_config=_VISION | (vision or {}), text_config=_TEXT | text, image_token_index=PICTURE
    )
    config._attn_implementation = "eager"
    return randomised(transformers.MllamaForConditionalGeneration(config), seed, 1.5, 1.0)


def features(model: Any, pixels: Pixels) -> NDArray[np.float32]:
    """What transformers makes of a picture, of its own tiles, F32 (rows, hidden)."""
    with torch.no_grad():
        found = model.model.vision_model(**_inputs([pixels])).last_hidden_state
        projected = model.model.multi_modal_projector(found)[0, 0, : len(pixels.tiles)]
    result: NDArray[np.float32] = projected.flatten(0, 1).numpy()
    return result


def logits(model: Any, tokens: Sequence[int], pictures: Sequence[Pixels] = ()) -> NDArray[np.float32]:
    """What transformers computes, F32 (tokens, vocabulary); tokens before the first picture in a batch first.

    The picture's token stands in `tokens`.
    """
    places = [index for index, token in enumerate(tokens) if token == PICTURE]
    first = places[0] if places else len(tokens)
    parts, cache = [], transformers.DynamicCache()
    with torch.no_grad():
        if first:
            text = torch.tensor([list(tokens[:first])])
            parts.append(model(input_ids=text, past_key_values=cache, use_cache=True).logits[0])
        if places:
            rest = torch.tensor([list(tokens[first:])])
            mask = _mask([place - first for place in places], pictures, len(tokens) - first)
            found = model(
                input_ids=rest,
                cross_attention_mask=mask,
                past_key_values=cache,
                position_ids=torch.arange(first, len(tokens))[None],
                use_cache=True,
                **_inputs(pictures),
            )
            parts.append(found.logits[0])
    result: NDArray[np.float32] = torch.cat(parts).numpy()
    return result


def _mask(places: Sequence[int], pictures: Sequence[Pixels], length: int) -> Any:
    """Which tiles each token sees, by the rule of transformers' processor."""
    from transformers.models.mllama import processing_mllama as processing

    ids = [PICTURE if index in places else 0 for index in range(length)]
    ranges = processing.get_cross_attention_token_mask(ids, PICTURE)
    tiles = [[len(one.tiles) for one in pictures]]
    return torch.tensor(
        processing.convert_sparse_cross_attention_mask_to_dense([ranges], tiles, TILES, length)
    )


def _inputs(pictures: Sequence[Pixels]) -> dict[str, Any]:
    shape = (1, len(pictures), TILES, 3, IMAGE, IMAGE)
    values, used = torch.zeros(shape), torch.zeros((1, len(pictures), TILES), dtype=torch.long)
    for index, one in enumerate(pictures):
        values[0, index, : len(one.tiles)] = torch.from_numpy(one.tiles)
        used[0, index, : len(one.tiles)] = 1
    arrangements = torch.tensor([[one.arrangement for one in pictures]])
    return {"pixel_values": values, "aspect_ratio_ids": arrangements, "aspect_ratio_mask": used}


_INNER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "gate_attn": "attn_gate",
    "gate_ffn": "ffn_gate",
}
_OUTER = [
    ("vision_model.global_transformer.layers", "v.global.blk"),
    ("vision_model.transformer.layers", "v.blk"),
    ("vision_model.patch_embedding", "v.patch_embd"),
    ("vision_model.class_embedding", "v.class_embd"),
    ("vision_model.gated_positional_embedding.tile_embedding", "v.tile_position_embd"),
    ("vision_model.gated_positional_embedding.embedding", "v.position_embd.weight"),
    ("vision_model.gated_positional_embedding", "v.position_embd"),
    ("vision_model.pre_tile_positional_embedding.embedding", "v.pre_tile_position_embd"),
    ("vision_model.pre_tile_positional_embedding", "v.pre_tile_position_embd"),
    ("vision_model.post_tile_positional_embedding.embedding", "v.post_tile_position_embd"),
    ("vision_model.post_tile_positional_embedding", "v.post_tile_position_embd"),
    ("vision_model.layernorm_pre", "v.pre_ln"),
    ("vision_model.layernorm_post", "v.post_ln"),
    ("multi_modal_projector", "mm.0"),
    ("language_model.embed_tokens", "token_embd"),
    ("language_model.norm", "output_norm"),
    ("language_model.layers", "blk"),
    ("lm_head", "output"),
]


def write_mllama(path: Path, model: Any, keys: dict[str, Any] | None = None) -> None:
    """Writes the model with the names and orders of Ollama's converter.

    Args:
        keys: further ones, without the architecture before them.
    """
    text, vision = model.config.text_config, model.config.vision_config
    heads = {"attn_q": text.num_attention_heads, "attn_k": text.num_key_value_heads}
    tensors = {}
    for name, value in model.state_dict().items():
        ours = _renamed(name.removeprefix("model."))
        array, kind = value.numpy(), ours.split(".")[-2]
        if ours.startswith("blk.") and kind in heads:
            array = _permuted(array, heads[kind])
        if ours.startswith("v.") and ours.endswith("gate"):
            array = np.tanh(array)
        if ours == "v.position_embd.gate":
            tensors["v.tile_position_embd.gate"], array = array, 1 - array
        tensors[ours] = array
    if text.rope_parameters["rope_type"] == "llama3":
        tensors["rope_freqs.weight"] = _llama3_factors(text)
    write(path, "mllama", _keys(text, vision) | (keys or {}), tensors)


def _keys(text: Any, vision: Any) -> dict[str, Any]:
    return {
        "block_count": text.num_hidden_layers,
        "embedding_length": text.hidden_size,
        "feed_forward_length": text.intermediate_size,
        "context_length": text.max_position_embeddings,
        "attention.head_count": text.num_attention_heads,
        "attention.head_count_kv": text.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": text.rms_norm_eps,
        "attention.cross_attention_layers": list(text.cross_attention_layers),
        "rope.freq_base": float(text.rope_parameters["rope_theta"]),
        "vision.block_count": vision.num_hidden_layers,
        "vision.global.block_count": vision.num_global_layers,
        # The state before a layer is the one after the layer before it, by which transformers counts.
        "vision.intermediate_layers_indices": [i + 1 for i in vision.intermediate_layers_indices],
        "vision.embedding_length": vision.hidden_size,
        "vision.feed_forward_length": vision.intermediate_size,
        "vision.attention.head_count": vision.attention_heads,
        "vision.attention.layer_norm_epsilon": vision.norm_eps,
        "vision.image_size": vision.image_size,
        "vision.patch_size": vision.patch_size,
        "vision.max_num_tiles": vision.max_num_tiles,
        "vision.num_channels": vision.num_channels,
    }


def _renamed(name: str) -> str:
    for theirs, ours in _OUTER:
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
            break
    name = name.replace("cross_attn.", "cross_attn_")
    for theirs, ours in _INNER.items():
        name = name.replace(f".{theirs}", f".{ours}")
    return name


def _permuted(value: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of each head from two halves to pairs of one of each, as Llama's rotary embedding wants them."""
    shape = value.shape
    return value.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def _llama3_factors(text: Any) -> NDArray[np.float32]:
    """What each frequency is divided by: nothing where fast, the whole factor where slow, a mix between."""
    parameters, size = text.rope_parameters, text.hidden_size // text.num_attention_heads
    context, factor = parameters["original_max_position_embeddings"], parameters["factor"]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    wavelengths = 2 * math.pi * parameters["rope_theta"] ** (np.arange(0, size, 2) / size)
    smooth = np.clip((context / wavelengths - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / factor + smooth), np.float32)
