"""Folders of models that see: what of an image encoder is refused, and what is told of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models import hf_gemma3_vision, hf_pixtral
from tests.models.hf_to_gguf import tiny_tokenizer

from puna.convert.convert import convert
from puna.errors import FormatError, PunaError, UnsupportedModel, WeightError
from puna.gguf import GGUFFile

pytestmark = pytest.mark.transformers

MODELS = {
    "gemma3": lambda: hf_gemma3_vision.gemma3(1),
    "mistral3": lambda: hf_pixtral.mistral3(1),
    "pixtral": lambda: hf_pixtral.pixtral(1),
}


def write(folder: Path, name: str, config: dict[str, Any], vision: dict[str, Any]) -> Path:
    """A model's folder with other values in its configuration; those that are None are taken out."""
    model = MODELS[name]()
    model.save_pretrained(folder)
    size = model.config.get_text_config().vocab_size
    (folder / "tokenizer.json").write_text(json.dumps(tiny_tokenizer(size)))
    document = json.loads((folder / "config.json").read_text())
    for part, changes in ((document, config), (document["vision_config"], vision)):
        part.update(changes)
        for key in [key for key, value in changes.items() if value is None]:
            del part[key]
    (folder / "config.json").write_text(json.dumps(document))
    return folder


BAD: list[tuple[str, dict[str, Any], dict[str, Any], type[PunaError], str]] = [
    (
        "mistral3",
        {},
        {"hidden_act": "gelu"},
        UnsupportedModel,
        "hidden_act 'gelu' is not supported, only silu",
    ),
    ("mistral3", {}, {"hidden_act": None}, UnsupportedModel, "hidden_act 'gelu' is not supported"),
    ("mistral3", {}, {"num_hidden_layers": 10**6}, UnsupportedModel, "1000000 layers are more than any"),
    ("mistral3", {}, {"patch_size": 0}, FormatError, "'patch_size' must be a whole number above 0"),
    ("mistral3", {}, {"patch_size": 5}, WeightError, "patch_conv.weight is 64 × 3 × 4 × 4 instead of"),
    ("mistral3", {}, {"num_channels": 1}, UnsupportedModel, "num_channels 1 is not supported"),
    ("mistral3", {"vision_feature_layer": -2}, {}, UnsupportedModel, "vision_feature_layer -2 is not"),
    ("mistral3", {"projector_hidden_act": "relu"}, {}, UnsupportedModel, "'relu' is not supported"),
    ("mistral3", {"spatial_merge_size": 3}, {}, WeightError, "is 64 × 256 instead of 64 × 576"),
    ("mistral3", {"multimodal_projector_bias": True}, {}, WeightError, "they lack multi_modal_projector"),
    ("pixtral", {}, {"model_type": "clip_vision_model"}, UnsupportedModel, "model_type 'clip_vision_model'"),
    ("pixtral", {"vision_feature_layer": None}, {}, UnsupportedModel, "vision_feature_layer -2 is not"),
    ("pixtral", {"vision_feature_select_strategy": "default"}, {}, UnsupportedModel, "only full"),
    ("gemma3", {}, {"hidden_act": "relu"}, UnsupportedModel, "hidden_act 'relu'"),
    (
        "gemma3",
        {},
        {"image_size": 63},
        WeightError,
        "position_embedding.weight is 64 × 32 instead of 81 × 32",
    ),
    ("gemma3", {"vision_config": []}, {}, FormatError, "'vision_config' must be an object"),
]


@pytest.mark.parametrize(("name", "config", "vision", "error", "said"), BAD)
def test_what_is_refused(
    name: str,
    config: dict[str, Any],
    vision: dict[str, Any],
    error: type[PunaError],
    said: str,
    tmp_path: Path,
) -> None:
    folder = write(tmp_path / "folder", name, config, vision) if "vision_config" not in config else None
    if folder is None:
        folder = write(tmp_path / "folder", name, {}, {})
        document = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(document | config))
    with pytest.raises(error) as caught:
        convert(folder, tmp_path / "model.gguf", lambda progress: None)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "model.gguf").exists()


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_the_largest_picture_is_the_processors(file: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "folder", "mistral3", {}, {})
    size = {"size": {"longest_edge": 40}}
    (folder / file).write_text(json.dumps(size if file.startswith("pre") else {"image_processor": size}))
    convert(folder, tmp_path / "model.gguf", lambda progress: None)
    with GGUFFile.open(tmp_path / "model.gguf") as opened:
        assert opened.metadata["mistral3.vision.longest_edge"] == 40


def test_what_a_model_does_without_is_told(tmp_path: Path) -> None:
    """SigLIP's head makes one vector of a picture."""
    folder = write(tmp_path / "folder", "gemma3", {}, {})
    stored = load_file(folder / "model.safetensors")
    prefix = next(name for name in stored if "post_layernorm" in name).split("post_layernorm")[0]
    save_file(stored | {f"{prefix}head.probe": torch.zeros(1)}, folder / "model.safetensors")
    told: list[str] = []
    convert(folder, tmp_path / "model.gguf", lambda progress: told.append(progress.status))
    assert "leaving out 1 tensors that the model does without" in told
