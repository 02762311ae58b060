"""Models that see, converted here into one file and by llama.cpp into two: both hold and see the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tests.convert.hf_tokenizers import byte_level
from tests.convert.llama_cpp import Task, convert_all
from tests.images.pictures import noise, saved
from tests.models import hf_qwenvl

from puna.chat.capabilities import picture_tokens
from puna.convert.convert import convert
from puna.errors import FormatError, UnsupportedModel, WeightError
from puna.gguf import GGMLType, GGUFFile
from puna.images.pixels import Pixels
from puna.ml import Backend, BackendParams, new_backend
from puna.models import build_model
from puna.models.base import Decoder

pytestmark = [
    pytest.mark.transformers,
    # Of the libraries that the programs use; what is tested is no part of them.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SIZE = 400
PROCESSOR = {
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.25],
    "size": {"shortest_edge": 640, "longest_edge": 6400},
}
# The layers of Qwen 3-VL's encoder with features of their own.
DEEP = [0, 2]
CASES: dict[str, Callable[[], Any]] = {
    # Where windows are as large as llama.cpp takes for granted.
    "qwen25vl": lambda: hf_qwenvl.qwen25vl(1, {"window_size": 112}, vocab_size=SIZE, rms_norm_eps=1e-6),
    "qwen3vl": lambda: hf_qwenvl.qwen3vl(2, {"deepstack_visual_indexes": DEEP}, vocab_size=SIZE),
    "qwen3vlmoe": lambda: hf_qwenvl.qwen3vl(
        3,
        {"deepstack_visual_indexes": DEEP},
        vocab_size=SIZE,
        num_experts=6,
        num_experts_per_tok=3,
        moe_intermediate_size=40,
    ),
}
# llama.cpp's names of tensors of image encoders, by ours.
NAMES = {
    "v.patch_embd_0.weight": "v.patch_embd.weight",
    "v.patch_embd_1.weight": "v.patch_embd.weight.1",
    "v.merger.ln_q.weight": "v.post_ln.weight",
    "v.merger.mlp.": "mm.",
    "v.patch_embed.": "v.patch_embd.",
    "v.pos_embed.": "v.position_embd.",
    "v.merger.norm.": "v.post_ln.",
    "v.merger.linear_fc1.": "mm.0.",
    "v.merger.linear_fc2.": "mm.2.",
    ".norm1.": ".ln1.",
    ".norm2.": ".ln2.",
    ".mlp.linear_fc1.": ".ffn_up.",
    ".mlp.linear_fc2.": ".ffn_down.",
    ".linear_fc": ".fc",
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each case as `.ours`, `.text` and `.mmproj`."""
    root = tmp_path_factory.mktemp("pictures")
    tasks = []
    for case, model in CASES.items():
        folder = write_folder(root / case, model())
        convert(folder, root / f"{case}.ours", lambda progress: None)
        tasks.append(Task(folder, root / f"{case}.text", "llama-bpe"))
        tasks.append(Task(folder, root / f"{case}.mmproj", sees=True))
    convert_all(tasks)
    return root


def write_folder(folder: Path, model: Any) -> Path:
    model.bfloat16().save_pretrained(folder)
    turn_experts(folder)
    byte_level(folder, SIZE)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def turn_experts(folder: Path) -> None:
    """Experts' matrices the other way round: transformers may save them otherwise than Qwen does."""
    stored = load_file(folder / "model.safetensors")
    turned = {name: t.transpose(1, 2).contiguous() for name, t in stored.items() if ".experts." in name}
    save_file(stored | turned, folder / "model.safetensors")


def values(file: GGUFFile) -> dict[str, NDArray[np.float32]]:
    """All tensors, in single precision."""
    data, found = file.path.read_bytes(), {}
    for name, tensor in file.tensors.items():
        content = data[tensor.offset : tensor.offset + tensor.nbytes]
        kind = {GGMLType.BF16: "<u2", GGMLType.F16: "<f2", GGMLType.F32: "<f4"}[tensor.type]
        numbers = np.frombuffer(content, kind)
        if tensor.type is GGMLType.BF16:
            numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
        found[name] = numbers.astype(np.float32).reshape(tensor.shape)
    return found


def theirs(tensors: dict[str, NDArray[np.float32]], *, fused: bool) -> dict[str, NDArray[np.float32]]:
    """Our tensors as llama.cpp's files have them; with `fused`, those of queries, keys and values in one."""
    found = {}
    for name, value in tensors.items():
        for number, layer in enumerate(DEEP):
            name = name.replace(f"v.deepstack_merger.{number}.", f"v.deepstack.{layer}.")
        for ours, other in NAMES.items():
            name = name.replace(ours, other)
        found[name] = value
    if not fused:
        return found
    both = found["v.patch_embd.weight"].reshape(-1, 3, *found["v.patch_embd.weight"].shape[1:])
    found["v.patch_embd.weight"], found["v.patch_embd.weight.1"] = both[:, :, 0], both[:, :, 1]
    for name in [name for name in found if name.startswith("v.") and ".attn_q." in name]:
        parts = [found.pop(name.replace("attn_q", f"attn_{part}")) for part in "qkv"]
        found[name.replace("attn_q", "attn_qkv")] = np.concatenate(parts)
    return found


@pytest.mark.parametrize("case", CASES)
def test_one_file_holds_what_two_of_llama_cpp_do(converted: Path, case: str) -> None:
    path = converted / case
    with (
        GGUFFile.open(path.with_suffix(".ours")) as ours,
        GGUFFile.open(path.with_suffix(".text")) as text,
        GGUFFile.open(path.with_suffix(".mmproj")) as vision,
    ):
        mine = theirs(values(ours), fused=case != "qwen25vl")
        other = values(text) | values(vision)
        assert mine.keys() == other.keys()
        for name, value in mine.items():
            assert np.array_equal(value, other[name].reshape(value.shape)), name
        architecture = ours.metadata.architecture
        assert architecture == case
        for key in ("vision.image_mean", "vision.image_std"):
            assert np.allclose(ours.metadata.floats(key), vision.metadata.floats(key))
        for key in (
            "vision.block_count",
            "vision.embedding_length",
            "vision.feed_forward_length",
            "vision.attention.head_count",
            "vision.patch_size",
        ):
            assert ours.metadata.uint(key) == vision.metadata.uint(key)
        for key in ("context_length", "block_count", "embedding_length", "feed_forward_length"):
            assert ours.metadata.uint(key) == text.metadata.uint(key)
        assert ours.metadata.strings("tokenizer.ggml.tokens") == text.metadata.strings(
            "tokenizer.ggml.tokens"
        )


@pytest.mark.parametrize("case", CASES)
def test_both_see_the_same(converted: Path, case: str) -> None:
    path, params = converted / case, BackendParams(num_threads=1)
    with new_backend(path.with_suffix(".ours"), params) as backend:
        decoder = built(backend)
        assert decoder.vision is not None
        backend.load()
        content = saved(noise(3, 170, 50), "PNG")
        pixels, tokens = decoder.vision.prepare(content), picture_tokens(backend.config())
        # Of what the processor allows.
        assert 640 <= pixels.tiles[0, 0].size <= 6400
        whole = features(decoder, backend, pixels)
        assert tokens is not None and decoder.vision.placement_of(content).count == len(whole)
        # With the tags around, which this vocabulary lacks.
        assert tokens(content) == len(whole) + 2
    with (
        new_backend(path.with_suffix(".text"), params) as backend,
        new_backend(path.with_suffix(".mmproj"), params) as eyes,
    ):
        decoder = built(backend)
        decoder.see_through(eyes)
        eyes.load()
        apart = features(decoder, eyes, pixels)
    assert np.abs(whole - apart).max() < 1e-5 * np.abs(whole).max()


def built(backend: Backend) -> Decoder:
    model = build_model(backend)
    assert isinstance(model, Decoder)
    return model


def features(decoder: Decoder, backend: Backend, pixels: Pixels) -> NDArray[np.float32]:
    assert decoder.vision is not None
    with backend.new_context() as context:
        result = decoder.vision.encode(context, pixels, backend.cache_config().mask_dtype)
        context.forward(result).compute(result)
        return result.floats()


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"temporal_patch_size": 1}, UnsupportedModel, "1 frames of 3 colours with 'silu' are not supported"),
        ({"hidden_act": "gelu"}, UnsupportedModel, "with 'gelu' are not supported, only 2 of 3 with silu"),
        ({"depth": 10**6}, UnsupportedModel, "1000000 layers are more than any model has"),
        ({"depth": 4}, WeightError, "they lack blocks.3.norm1.weight"),
        ({"depth": 2}, WeightError, "nothing uses blocks.2"),
        ({"hidden_size": "x"}, FormatError, "'hidden_size' must be a whole number"),
        ({"fullatt_block_indexes": [-1]}, UnsupportedModel, "fullatt_block_indexes cannot be"),
        ({"patch_size": 5}, WeightError, "visual.patch_embed.proj.weight|0 is 32 × 3 × 4 × 4"),
    ],
)
def test_encoders_that_make_no_sense(
    converted: Path, change: dict[str, Any], error: type[Exception], said: str, tmp_path: Path
) -> None:
    folder = converted / "qwen25vl"
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= change
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(error, match=said):
        convert(tmp_path, tmp_path / "made.gguf", lambda progress: None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_mean": [1, 2]}, "image_mean cannot be"),
        ({"image_std": "x"}, "image_std cannot be"),
        ({"size": {"shortest_edge": -3}}, "'shortest_edge' must be a whole number"),
    ],
)
def test_processors_that_make_no_sense(
    converted: Path, change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    for file in (converted / "qwen25vl").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | change))
    with pytest.raises((UnsupportedModel, FormatError), match=said):
        convert(tmp_path, tmp_path / "made.gguf", lambda progress: None)


def test_published_folders_keep_the_text_beside_the_encoder(converted: Path, tmp_path: Path) -> None:
    """As Qwen has published them: one flat configuration, and a kind of rotary embeddings of its own."""
    folder = converted / "qwen25vl"
    config = json.loads((folder / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope["rope_theta"]
    text["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(text | config))
    convert(tmp_path, tmp_path / "made.gguf", lambda progress: None)
    assert (tmp_path / "made.gguf").read_bytes() == (converted / "qwen25vl.ours").read_bytes()


def test_weights_of_wrong_shapes(converted: Path, tmp_path: Path) -> None:
    for file in (converted / "qwen25vl").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    stored = load_file(tmp_path / "model.safetensors")
    for name, shape in (
        ("visual.patch_embed.proj.weight", (32, 3, 3, 4, 4)),
        ("visual.blocks.0.attn.qkv.bias", (97,)),
    ):
        save_file(stored | {name: torch.zeros(shape, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
        with pytest.raises(WeightError, match="do not fit"):
            convert(tmp_path, tmp_path / "made.gguf", lambda progress: None)


def test_experts_either_way_round(converted: Path, tmp_path: Path) -> None:
    for file in (converted / "qwen3vlmoe").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    turn_experts(tmp_path)
    one, other = ((path / "model.safetensors").read_bytes() for path in (converted / "qwen3vlmoe", tmp_path))
    assert one != other
    convert(tmp_path, tmp_path / "made.gguf", lambda progress: None)
    with (
        GGUFFile.open(tmp_path / "made.gguf") as made,
        GGUFFile.open(converted / "qwen3vlmoe.ours") as ours,
    ):
        found, expected = values(made), values(ours)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in found)
