"""Tiny models of the Qwen-VL family with random weights, as transformers has them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tests.models.hf_models import randomised
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from puna.images.pixels import Pixels

VOCABULARY, PICTURE = 100, 96
PATCH, HIDDEN = 4, 64

_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
}
_VISION: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_heads": 4,
    "patch_size": PATCH,
    "out_hidden_size": HIDDEN,
}
_TOKENS: dict[str, Any] = {
    "image_token_id": PICTURE,
    "video_token_id": PICTURE + 1,
    "vision_start_token_id": PICTURE + 2,
    "vision_end_token_id": PICTURE + 3,
}


def qwen25vl(seed: int, vision: dict[str, Any] | None = None, **text: Any) -> Any:
    """A Qwen2_5_VLForConditionalGeneration; the arguments are keys of its two configs."""
    windows = {"window_size": 16, "fullatt_block_indexes": [1]}
    tied: dict[str, Any] = {"tie_word_embeddings": text.pop("tie_word_embeddings", False)}
    config = transformers.Qwen2_5_VLConfig(
        text_config=_TEXT | text, vision_config=_VISION | windows | (vision or {}), **_TOKENS, **tied
    )
    return _made(transformers.Qwen2_5_VLForConditionalGeneration, config, seed)


def qwen3vl(seed: int, vision: dict[str, Any] | None = None, **text: Any) -> Any:
    """The same of Qwen3VLForConditionalGeneration, or with `num_experts` of that with a mixture of them."""
    deep = {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 36, "in_channels": 3}
    tied: dict[str, Any] = {"tie_word_embeddings": text.pop("tie_word_embeddings", False)}
    moe = "Moe" if "num_experts" in text else ""
    config = getattr(transformers, f"Qwen3VL{moe}Config")(
        text_config=_TEXT | {"head_dim": 16} | text,
        vision_config=_VISION | deep | (vision or {}),
        **_TOKENS,
        **tied,
    )
    return _made(getattr(transformers, f"Qwen3VL{moe}ForConditionalGeneration"), config, seed)


def _made(kind: Any, config: Any, seed: int) -> Any:
    config._attn_implementation = "eager"
    return randomised(kind(config), seed, 1.5, 1.0)


def features(model: Any, pixels: Pixels) -> NDArray[np.float32]:
    """What transformers makes of a picture, F32 (tokens, hidden), further levels side by side."""
    patches, grid = _patches(model, pixels)
    with torch.no_grad():
        found = model.model.visual(patches, grid_thw=grid)
        parts = [found.pooler_output, *(getattr(found, "deepstack_features", None) or [])]
        result: NDArray[np.float32] = torch.cat(parts, dim=-1).numpy()
    return result


def logits(model: Any, tokens: Sequence[int], pictures: Sequence[Pixels] = ()) -> NDArray[np.float32]:
    """What transformers computes, F32 (tokens, vocabulary); pictures stand where their tokens are."""
    ids = torch.tensor([list(tokens)])
    given: dict[str, Any] = {}
    if pictures:
        patches, grids = zip(*(_patches(model, one) for one in pictures), strict=True)
        given = {
            "pixel_values": torch.cat(patches),
            "image_grid_thw": torch.cat(grids),
            "mm_token_type_ids": (ids == PICTURE).int(),
        }
    with torch.no_grad():
        result: NDArray[np.float32] = model(input_ids=ids, **given).logits[0].numpy()
    return result


def _patches(model: Any, pixels: Pixels) -> tuple[Any, Any]:
    """A picture as transformers' processors cut it up."""
    vision = model.config.vision_config
    cut = Qwen2VLImageProcessorPil().patchify
    values, rows, columns = cut(pixels.tiles[0], vision.patch_size, vision.spatial_merge_size, 2)
    return torch.from_numpy(np.ascontiguousarray(values)), torch.tensor([[1, rows, columns]])
