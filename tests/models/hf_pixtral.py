"""Tiny models with Pixtral's image encoder and random weights: as transformers has them, and as files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tests.models.hf_models import randomised
from tests.models.hf_to_gguf import write
from tests.models.hf_written import mistral3_content, permuted

from puna.images.pixels import Pixels

# The ids of released models, whose vocabularies need not be in the file.
VOCABULARY, PICTURE, BREAK, END = 97, 10, 12, 13
EDGE, PATCH = 56, 4

_VISION: dict[str, Any] = {
    "model_type": "pixtral",
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": EDGE,
    "patch_size": PATCH,
    "hidden_act": "silu",
}
_TEXT: dict[str, Any] = {
    "model_type": "mistral",
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "sliding_window": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def mistral3(seed: int, *, merge: int = 2, text: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A Mistral3ForConditionalGeneration; the arguments are keys of its configs."""
    config = transformers.Mistral3Config(
        vision_config=_VISION,
        text_config=_TEXT | (text or {}),
        image_token_index=PICTURE,
        spatial_merge_size=merge,
        tie_word_embeddings=False,
        **changes,
    )
    config._attn_implementation = "eager"
    return randomised(transformers.Mistral3ForConditionalGeneration(config), seed, 1.5, 1.0)


def pixtral(seed: int, *, text: dict[str, Any] | None = None, **vision: Any) -> Any:
    """A LlavaForConditionalGeneration, as Pixtral is; the arguments are keys of its parts' configs."""
    config = transformers.LlavaConfig(
        vision_config=_VISION | vision,
        text_config=_TEXT | (text or {}),
        image_token_index=PICTURE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )
    config._attn_implementation = "eager"
    return randomised(transformers.LlavaForConditionalGeneration(config), seed, 1.5, 1.0)


def square(model: Any) -> int:
    """Pixels along a side of the square that a token stands for."""
    size: int = model.config.vision_config.patch_size * getattr(model.config, "spatial_merge_size", 1)
    return size


def lines(model: Any, pixels: Pixels) -> tuple[int, int]:
    """How many lines of tokens a picture has, and how many each of them."""
    rows, columns = (side // square(model) for side in pixels.tiles.shape[2:])
    return rows, columns


def own_tokens(model: Any, pixels: Pixels) -> list[int]:
    """The tokens of a picture, without the one that ends it."""
    rows, columns = lines(model, pixels)
    return [*([PICTURE] * columns + [BREAK]) * rows][:-1]


def features(model: Any, pixels: Pixels) -> NDArray[np.float32]:
    """What transformers puts in place of the embeddings of a picture's own tokens, F32 (tokens, hidden)."""
    rows, columns = lines(model, pixels)
    with torch.no_grad():
        values, sizes = _given([pixels])
        found = model.model.get_image_features(pixel_values=values, image_sizes=sizes).pooler_output[0]
        line_break = model.model.language_model.embed_tokens.weight[BREAK].expand(rows, 1, -1)
        whole = torch.cat((found.reshape(rows, columns, -1), line_break), dim=1)
        result: NDArray[np.float32] = whole.reshape(rows * (columns + 1), -1)[:-1].numpy()
    return result


def logits(model: Any, tokens: Sequence[int], pictures: Sequence[Pixels] = ()) -> NDArray[np.float32]:
    """What transformers computes, F32 (tokens, vocabulary); a picture is its `own_tokens`."""
    given = {}
    if pictures:
        given["pixel_values"], given["image_sizes"] = _given(pictures)
    with torch.no_grad():
        result: NDArray[np.float32] = model(input_ids=torch.tensor([list(tokens)]), **given).logits[0].numpy()
    return result


def _given(pictures: Sequence[Pixels]) -> tuple[Any, Any]:
    """Pictures as transformers takes them: filled up to the largest, with their sizes."""
    sizes = [one.tiles.shape[2:] for one in pictures]
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    whole = np.zeros((len(pictures), 3, height, width), np.float32)
    for place, one in zip(whole, pictures, strict=True):
        place[:, : one.tiles.shape[2], : one.tiles.shape[3]] = one.tiles[0]
    return torch.from_numpy(whole), torch.tensor([list(size) for size in sizes])


def write_whole(path: Path, model: Any, keys: dict[str, Any] | None = None) -> None:
    """Writes a Mistral3ForConditionalGeneration in one file, as Ollama does; `keys` are further ones."""
    config = model.config
    own = _keys(config) | {
        "vision.attention.key_length": config.vision_config.head_dim,
        "vision.rope.freq_base": float(config.vision_config.rope_parameters["rope_theta"]),
        "image_token_index": PICTURE,
        "spatial_merge_size": config.spatial_merge_size,
        "mm.projector_bias": config.multimodal_projector_bias,
    }
    text_keys, text = mistral3_content(_Text(model))
    write(path, "mistral3", text_keys | own | (keys or {}), dict(_vision(model)) | text)


def write_text(path: Path, model: Any, architecture: str) -> None:
    """Writes the decoder alone."""
    keys, tensors = mistral3_content(_Text(model))
    write(path, architecture, keys, tensors)


OF_LLAMA_CPP = {
    "patch_conv": "patch_embd",
    "encoder_norm": "pre_ln",
    "attn_norm": "ln1",
    "ffn_norm": "ln2",
    "attn_output": "attn_out",
    "mm.norm": "mm.input_norm",
    "mm.patch_merger.merging_layer": "mm.patch_merger",
    "mm.linear_": "mm.",
}
"""Parts of llama.cpp's names, by Ollama's."""


def write_projector(path: Path, model: Any, keys: dict[str, Any] | None = None) -> None:
    """Writes the image encoder with the names of llama.cpp's converter; `keys` are further ones."""
    vision = model.config.vision_config
    tensors = {
        "v.token_embd.img_break": model.model.language_model.embed_tokens.weight[BREAK].detach().numpy()
    }
    for name, value in _vision(model):
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            value = permuted(value, vision.num_attention_heads)
        for theirs, ours in OF_LLAMA_CPP.items():
            name = name.replace(theirs, ours)
        tensors[name] = value
    own = _keys(model.config) | {
        "projector_type": "pixtral",
        "has_vision_encoder": True,
        "vision.attention.layer_norm_epsilon": 1e-5,
        f"use_{vision.hidden_act}": True,
    }
    if hasattr(model.config, "spatial_merge_size"):
        own["vision.spatial_merge_size"] = model.config.spatial_merge_size
    write(path, "clip", own | (keys or {}), tensors)


class _Text:
    """The decoder of a model, with its table of outputs, as one that transformers would save alone."""

    def __init__(self, model: Any) -> None:
        self.config = model.config.text_config
        self._model = model

    def state_dict(self) -> dict[str, Any]:
        own = self._model.model.language_model.state_dict()
        return {f"model.{name}": value for name, value in own.items()} | {
            "lm_head.weight": self._model.lm_head.weight.detach()
        }


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
    }


_INNER = {
    "attention.q_proj": "attn_q",
    "attention.k_proj": "attn_k",
    "attention.v_proj": "attn_v",
    "attention.o_proj": "attn_output",
    "feed_forward.gate_proj": "ffn_gate",
    "feed_forward.up_proj": "ffn_up",
    "feed_forward.down_proj": "ffn_down",
    "attention_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
}


def _vision(model: Any) -> Any:
    """The image encoder's tensors, with Ollama's names."""
    for name, value in model.model.state_dict().items():
        if name.startswith("multi_modal_projector."):
            yield name.replace("multi_modal_projector", "mm"), value.numpy()
        elif name.startswith("vision_tower.transformer.layers."):
            _, _, _, index, part = name.split(".", 4)
            yield f"v.blk.{index}.{_INNER[part.removesuffix('.weight')]}.weight", value.numpy()
        elif name.startswith("vision_tower."):
            yield "v." + name.removeprefix("vision_tower.").replace("ln_pre", "encoder_norm"), value.numpy()
