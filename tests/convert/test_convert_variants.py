"""Variants of models: published forms become the same file, and none is made of what nothing computes."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models import hf_models
from tests.models.hf_to_gguf import Contents, tiny_tokenizer

from puna.convert.convert import convert
from puna.errors import FormatError, PunaError, UnsupportedModel, WeightError

pytestmark = pytest.mark.transformers

Change = Callable[[dict[str, Any]], object]
Tensors = dict[str, torch.Tensor]

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [1.0] * 7, "short_factor": [1.0] * 8}


def llama4(**changes: Any) -> Any:
    return hf_models.llama4(1, interleave_moe_layer_step=2, **changes)


def ministral3() -> Any:
    rope = YARN | {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}
    return hf_models.mistral("Ministral3", 1, rope_parameters=rope)


def written(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(tiny_tokenizer(model.config.vocab_size)))
    return folder


def made(folder: Path, target: Path) -> Contents:
    convert(folder, target, lambda progress: None)
    return Contents.of(target)


def change_config(folder: Path, change: Change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def change_tensors(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)


@pytest.mark.parametrize(
    ("model", "architecture", "parts"),
    [
        (llama4, "Llama4ForConditionalGeneration", ("vision_model.", "multi_modal_projector.")),
        (
            lambda: hf_models.gemma3n(1),
            "Gemma3nForConditionalGeneration",
            ("model.vision_tower.", "model.audio_tower.", "model.embed_vision.", "model.embed_audio."),
        ),
    ],
    ids=["llama4", "gemma3n"],
)
def test_the_text_of_models_that_see_and_hear(
    model: Callable[[], Any], architecture: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    folder = written(tmp_path / "folder", model())
    expected = made(folder, tmp_path / "text.gguf")

    def inside(config: dict[str, Any]) -> None:
        own = dict(config)
        config.clear()
        config.update({"architectures": [architecture], "text_config": own, "vision_config": {}})

    def further_in(tensors: Tensors) -> Tensors:
        found = {re.sub(r"^model\.", "model.language_model.", name): each for name, each in tensors.items()}
        return found | {f"{part}a.weight": torch.zeros(3) for part in parts}

    change_config(folder, inside)
    change_tensors(folder, further_in)
    said: list[str] = []
    convert(folder, tmp_path / "model.gguf", lambda progress: said.append(progress.status))
    assert said[0] == f"leaving out {len(parts)} tensors that the model does without"
    assert Contents.of(tmp_path / "model.gguf") == expected


def test_experts_of_llama_4_one_by_one(tmp_path: Path) -> None:
    """As in files of eight bits."""
    folder = written(tmp_path / "folder", llama4())
    expected = made(folder, tmp_path / "together.gguf")

    def apart(tensors: Tensors) -> Tensors:
        found: Tensors = {}
        for name, tensor in tensors.items():
            if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                found[name] = tensor
                continue
            stem, kind = name.rsplit(".", 1)
            parts = ("gate_proj", "up_proj") if kind == "gate_up_proj" else ("down_proj",)
            for expert, matrix in enumerate(tensor.transpose(1, 2)):
                for part, rows in zip(parts, matrix.chunk(len(parts)), strict=True):
                    found[f"{stem}.{expert}.{part}.weight"] = rows.contiguous()
        return found

    change_tensors(folder, apart)
    assert made(folder, tmp_path / "apart.gguf") == expected


def test_an_old_spelling_of_phi_3s_positions(tmp_path: Path) -> None:
    rope = LONG | {"long_factor": [2.0] * 8, "original_max_position_embeddings": 64}
    model = hf_models.phi3(1, rope_parameters=rope, original_max_position_embeddings=64)
    folder = written(tmp_path / "folder", model)
    expected = made(folder, tmp_path / "new.gguf")

    def older(config: dict[str, Any]) -> None:
        del config["rope_parameters"]
        config["rope_scaling"] = {
            "type": "su",
            "long_factor": rope["long_factor"],
            "short_factor": rope["short_factor"],
        }
        config["rope_theta"] = rope["rope_theta"]

    change_config(folder, older)
    assert made(folder, tmp_path / "old.gguf") == expected


def setting(**values: Any) -> Change:
    return lambda config: config.update(values)


def rope(**values: Any) -> Change:
    return lambda config: config["rope_parameters"].update(values)


BAD: dict[str, tuple[Callable[[], Any], Change, type[PunaError], str]] = {
    "llama, a part rotated": (
        lambda: hf_models.llama(1),
        setting(partial_rotary_factor=0.5),
        UnsupportedModel,
        "only a part of each head",
    ),
    "phi3, other factors": (
        lambda: hf_models.phi3(1),
        setting(rope_parameters=LONG),
        FormatError,
        "8 numbers",
    ),
    "phi3, no factors": (
        lambda: hf_models.phi3(1),
        setting(rope_parameters=LONG | {"long_factor": None}),
        FormatError,
        "'long_factor' must be 8 numbers, not missing",
    ),
    "phi3, factors that are none": (
        lambda: hf_models.phi3(1),
        setting(rope_parameters=LONG | {"long_factor": [1.0] * 7 + ["1"]}),
        FormatError,
        "'long_factor' must be a number",
    ),
    "ministral3, no YaRN": (
        ministral3,
        rope(rope_type="linear"),
        UnsupportedModel,
        "with YaRN and an mscale",
    ),
    "ministral3, other mscale": (ministral3, rope(mscale=0.5), UnsupportedModel, "with YaRN and an mscale"),
    "ministral3, no temperature": (
        ministral3,
        rope(llama_4_scaling_beta=None),
        FormatError,
        "'llama_4_scaling_beta' must be a number",
    ),
    "mistral4": (ministral3, setting(model_type="mistral4"), UnsupportedModel, "'mistral4'"),
    "command-r, stretched": (
        lambda: hf_models.cohere("Cohere", 1),
        setting(rope_parameters=YARN),
        UnsupportedModel,
        "scaled by 'yarn'",
    ),
    "cohere2, a part rotated": (
        lambda: hf_models.cohere("Cohere2", 1),
        setting(rotary_pct=0.5),
        UnsupportedModel,
        "only a part of each head",
    ),
    "glm4, sections": (
        lambda: hf_models.glm4(1),
        rope(mrope_section=[1, 2, 3]),
        UnsupportedModel,
        "only a part of each head",
    ),
    "starcoder2, another activation": (
        lambda: hf_models.starcoder2(1),
        setting(hidden_act="gelu"),
        UnsupportedModel,
        "hidden_act 'gelu' is not supported",
    ),
    "deepseek2, other scores": (
        lambda: hf_models.deepseek("V2", 1),
        setting(scoring_func="sigmoid"),
        UnsupportedModel,
        "scoring_func is not supported, only softmax",
    ),
    "deepseek2, another choice": (
        lambda: hf_models.deepseek("V2", 1),
        setting(topk_method="noaux_tc"),
        UnsupportedModel,
        "topk_method 'noaux_tc'",
    ),
    "deepseek2, normalised": (
        lambda: hf_models.deepseek("V2", 1),
        setting(norm_topk_prob=True),
        UnsupportedModel,
        "norm_topk_prob",
    ),
    "deepseek3, layers without experts": (
        lambda: hf_models.deepseek("V3", 1),
        setting(moe_layer_freq=2),
        UnsupportedModel,
        "layers without experts",
    ),
    "deepseek3, kinds of layers": (
        lambda: hf_models.deepseek("V3", 1),
        setting(mlp_layer_types=["sparse", "dense", "sparse"]),
        UnsupportedModel,
        "layers without experts",
    ),
    "deepseek3, halves rotated": (
        lambda: hf_models.deepseek("V3", 1),
        setting(rope_interleave=False),
        UnsupportedModel,
        "rope_interleave",
    ),
    "deepseek3, two magnitudes": (
        lambda: hf_models.deepseek("V3", 1),
        setting(rope_parameters=YARN | {"mscale": 1.0, "mscale_all_dim": 0.7}),
        UnsupportedModel,
        "mscale 1.0",
    ),
    "deepseek3, another width": (
        lambda: hf_models.deepseek("V3", 1),
        setting(v_head_dim=13),
        WeightError,
        "kv_b_proj.weight has the shape (112, 24)",
    ),
    "deepseek3, another rank": (
        lambda: hf_models.deepseek("V3", 1),
        setting(q_lora_rank=None),
        WeightError,
        "they lack layers.0.self_attn.q_proj.weight",
    ),
    "llama4, chunks elsewhere": (
        llama4,
        setting(layer_types=["full_attention"] + ["chunked_attention"] * 4),
        UnsupportedModel,
        "layer_types and no_rope_layers",
    ),
    "llama4, positions elsewhere": (
        llama4,
        setting(no_rope_layers=[0, 1, 1, 1, 1]),
        UnsupportedModel,
        "layer_types and no_rope_layers",
    ),
    "llama4, experts elsewhere": (llama4, setting(moe_layers=[0, 2]), UnsupportedModel, "moe_layers"),
    "llama4, no chunks": (
        llama4,
        setting(attention_chunk_size=0),
        FormatError,
        "'attention_chunk_size' must be a whole number",
    ),
    "gemma3n, streams as they are": (
        lambda: hf_models.gemma3n(1),
        setting(altup_correct_scale=False),
        UnsupportedModel,
        "altup_correct_scale",
    ),
    "gemma3n, several widths": (
        lambda: hf_models.gemma3n(1),
        setting(intermediate_size=[96, 96, 80, 96]),
        UnsupportedModel,
        "layers of the widths [80, 96]",
    ),
    "gemma3n, widths that are none": (
        lambda: hf_models.gemma3n(1),
        setting(intermediate_size=[96, "96"]),
        FormatError,
        "'intermediate_size' must be a whole number",
    ),
    "gemma3n, few shares": (
        lambda: hf_models.gemma3n(1),
        setting(activation_sparsity_pattern=[0.5]),
        FormatError,
        "must be 4 numbers",
    ),
    "gemma3n, a share of all": (
        lambda: hf_models.gemma3n(1),
        setting(activation_sparsity_pattern=[1.0] * 4),
        FormatError,
        "numbers from 0 up to 1",
    ),
    "gemma3n, more streams": (
        lambda: hf_models.gemma3n(1),
        setting(altup_num_inputs=5),
        WeightError,
        "altup.correction_coefs.weight is 4 × 4 instead of 5 × 5",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_nothing_computes(case: str, tmp_path: Path) -> None:
    model, change, kind, message = BAD[case]
    folder = written(tmp_path / "folder", model())
    change_config(folder, change)
    with pytest.raises(kind) as caught:
        convert(folder, tmp_path / "model.gguf", lambda progress: None)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


FAMILIES: dict[str, Callable[[], Any]] = {
    "phi3": lambda: hf_models.phi3(1, rope_parameters=LONG | {"long_factor": [2.0] * 8}),
    "ministral3": ministral3,
    "command-r": lambda: hf_models.cohere("Cohere", 1),
    "cohere2": lambda: hf_models.cohere("Cohere2", 1),
    "glm4": lambda: hf_models.glm4(1),
    "starcoder2": lambda: hf_models.starcoder2(1),
    "deepseek2": lambda: hf_models.deepseek("V2", 1),
    "deepseek3": lambda: hf_models.deepseek(
        "V3", 1, rope_parameters=YARN | {"mscale": 1, "mscale_all_dim": 1}
    ),
    "glm flash": lambda: hf_models.deepseek("Flash", 1),
    "llama4": llama4,
    "gemma3n": lambda: hf_models.gemma3n(1),
}
ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    3,
    1e300,
    2**31,
    10**40,
    "",
    "all",
    [],
    [0, "a"],
    {},
    {"rope_type": []},
)


def odd_settings(config: dict[str, Any], random: Random) -> Iterator[dict[str, Any]]:
    """The configuration, each time with another field that makes no sense."""
    places: list[tuple[str, ...]] = [(name,) for name in config if name != "architectures"]
    places += [("rope_parameters", name) for name in config["rope_parameters"]]
    for place in places:
        for value in random.sample(ODD, 3):
            changed: dict[str, Any] = json.loads(json.dumps(config))
            (changed["rope_parameters"] if len(place) > 1 else changed)[place[-1]] = value
            yield changed


@pytest.mark.parametrize("family", FAMILIES)
def test_any_setting_that_makes_no_sense(family: str, tmp_path: Path) -> None:
    """Whatever is in a field: a model, or one sentence and nothing left behind."""
    folder = written(tmp_path / "folder", FAMILIES[family]())
    config = json.loads((folder / "config.json").read_text())
    for changed in odd_settings(config, Random(3)):
        (folder / "config.json").write_text(json.dumps(changed))
        try:
            convert(folder, tmp_path / "model.gguf", lambda progress: None)
        except PunaError as error:
            assert "\n" not in str(error) and len(str(error)) < 900
        (tmp_path / "model.gguf").unlink(missing_ok=True)
        assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
