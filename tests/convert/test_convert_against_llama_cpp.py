"""Tiny random models of every architecture, converted here and by llama.cpp: the files say the same."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tests.convert.hf_tokenizers import byte_level, sentencepieces
from tests.convert.llama_cpp import Task, convert_all
from tests.models import hf_models, hf_pixtral
from tests.models.driver import evaluate, opened
from tests.models.hf_written import permuted

import gguf
from puna.convert.convert import convert
from puna.gguf import GGUFFile, ValueType

pytestmark = [
    pytest.mark.transformers,
    # Of the libraries that the programs use; what is tested is no part of them.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SIZE = 400
_GEMMA_ADDED = {
    "3": {"content": "<pad>", "special": True},
    "390": {"content": "<start_of_turn>", "special": True},
    "391": {"content": "▁▁▁", "special": False},
    "392": {"content": "<unused0>", "special": False},
}
# llama.cpp takes those of the published Llama 4 for granted.
_SIGHT = {"attention_chunk_size": 8192, "floor_scale": 8192, "attn_scale": 0.1}
# As `sentencepieces` numbers them.
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "long_factor": [1.0, 1.3, 2.0, 3.5, 8.0, 13.0],
    "short_factor": [1.0, 1.0, 1.1, 1.2, 1.4, 1.5],
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
_MSCALES = {"mscale": 1.0, "mscale_all_dim": 1.0}
_MINISTRAL = {
    "vocab_size": SIZE,
    "model_type": "ministral3",
    "rope_parameters": {
        **_YARN,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
}


def _json(folder: Path) -> None:
    byte_level(folder, SIZE)


def _gpt2(folder: Path) -> None:
    """As in Phi 4."""
    _json(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "GPT2Tokenizer"}))


def _user(folder: Path) -> None:
    """With tokens that GLM 4 has."""
    _json(folder)
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    last = document["added_tokens"][-1]
    for more, text in enumerate(("<|user|>", "<|observation|>", "[gMASK]"), start=1):
        document["added_tokens"].append(last | {"id": last["id"] + more, "content": text, "special": True})
    path.write_text(json.dumps(document))


def _pieces(folder: Path) -> None:
    sentencepieces(folder, prefix=True)


def _gemma(folder: Path) -> None:
    sentencepieces(folder, prefix=False, added=_GEMMA_ADDED)


def _pictured(folder: Path) -> None:
    """With the tokens that stand for pictures."""
    _json(folder)
    document = json.loads((folder / "tokenizer.json").read_text())
    for id, content in enumerate(("[IMG]", "[IMG_BREAK]", "[IMG_END]"), SIZE - 4):
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        document["added_tokens"].append({"id": id, "content": content, "special": True, **flags})
    (folder / "tokenizer.json").write_text(json.dumps(document))
    _prepared(folder)


def _gemma_pictured(folder: Path) -> None:
    """With the names of published models; without what makes one vector of a picture."""
    _gemma(folder)
    _prepared(folder)
    tower, inner = "vision_tower.", "vision_tower.vision_model."

    def changed(name: str, tensor: Any) -> dict[str, Any]:
        if f"{tower}head." in name:
            return {}
        return {name if inner in name else name.replace(tower, inner): tensor}

    _rewrite(folder, changed, {})


def _prepared(folder: Path) -> None:
    """What llama.cpp wants to know of pictures."""
    processor = {
        "size": {"longest_edge": 56},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "image_seq_length": 4,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def _pooled(folder: Path) -> None:
    """The state of the last token as a vector of the text."""
    _json(folder)
    (folder / "modules.json").write_text(
        json.dumps([{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}])
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))


def _blocks(folder: Path) -> None:
    """Experts' matrices as blocks of four-bit numbers, as published."""
    _json(folder)
    random = torch.Generator().manual_seed(1)

    def changed(name: str, tensor: Any) -> dict[str, Any]:
        if not name.endswith(("gate_up_proj", "down_proj")):
            return {name: tensor}
        experts, columns, rows = tensor.shape
        shape = (experts, rows, columns // 32)
        return {
            f"{name}_blocks": torch.randint(0, 256, (*shape, 16), generator=random).byte(),
            f"{name}_scales": torch.randint(110, 124, shape, generator=random).byte(),
        }

    _rewrite(folder, changed, {"quant_method": "mxfp4"})


def _eight_bits(folder: Path) -> None:
    """Layers' matrices with a scale for each block."""
    _json(folder)
    random = torch.Generator().manual_seed(2)

    def changed(name: str, tensor: Any) -> dict[str, Any]:
        if not name.endswith("proj.weight"):
            return {name: tensor}
        scales = [-(-size // block) for size, block in zip(tensor.shape, (24, 16), strict=True)]
        return {
            name: tensor.to(torch.float8_e4m3fn),
            f"{name}_scale_inv": torch.rand(scales, generator=random) + 0.5,
        }

    _rewrite(folder, changed, {"quant_method": "fp8", "weight_block_size": [24, 16]})


def _more_layers(folder: Path) -> None:
    """In eight bits, and with a layer that foretells one more token."""
    _eight_bits(folder)
    path = folder / "model.safetensors"
    stored = load_file(path)
    stem = "model.layers.2."
    more = {
        f"model.layers.3.{name.removeprefix(stem)}": tensor.clone()
        for name, tensor in stored.items()
        if name.startswith(stem)
    }
    save_file(stored | more, path)


def _unused(folder: Path) -> None:
    """With keys and values of layers that look at those of others, as published."""
    _gemma(folder)
    stored = load_file(folder / "model.safetensors")
    parts = ("self_attn.k_proj", "self_attn.v_proj", "self_attn.k_norm")
    more = {
        f"model.layers.{index}.{part}.weight": stored[f"model.layers.0.{part}.weight"].clone()
        for index in (2, 3)
        for part in parts
    }
    save_file(stored | more, folder / "model.safetensors")


def _rewrite(
    folder: Path, change: Callable[[str, Any], dict[str, Any]], quantization: dict[str, Any]
) -> None:
    """Other tensors in the folder, and how they are quantized in its configuration."""
    stored = load_file(folder / "model.safetensors")
    changed = [change(name, tensor) for name, tensor in stored.items()]
    save_file({name: t for made in changed for name, t in made.items()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))


Model = Callable[[], Any]
CASES: dict[str, tuple[Model, Callable[[Path], None]]] = {
    "llama": (lambda: hf_models.llama(1, vocab_size=SIZE), _json),
    "llama, pieces": (lambda: hf_models.llama(2, vocab_size=SIZE, **_IDS), _pieces),
    "llama, biases, tied": (
        lambda: hf_models.llama(3, vocab_size=SIZE, attention_bias=True, tie_word_embeddings=True),
        _json,
    ),
    "llama 3, scaled": (lambda: hf_models.llama(4, vocab_size=SIZE, rope_parameters=_LLAMA3), _json),
    "mixtral": (lambda: hf_models.mixtral(5, vocab_size=SIZE, **_IDS), _pieces),
    "qwen2": (lambda: hf_models.qwen("qwen2", 6, vocab_size=SIZE), _json),
    "qwen2, vectors": (lambda: hf_models.qwen("qwen2", 19, vocab_size=SIZE).model, _pooled),
    "qwen2moe": (lambda: hf_models.qwen("qwen2moe", 7, vocab_size=SIZE), _json),
    "qwen3": (lambda: hf_models.qwen("qwen3", 8, vocab_size=SIZE, rope_parameters=_YARN), _json),
    "qwen3moe": (lambda: hf_models.qwen("qwen3moe", 9, vocab_size=SIZE, norm_topk_prob=True), _json),
    "gemma2": (lambda: hf_models.gemma2(10, vocab_size=SIZE, **_IDS), _gemma),
    "gemma3": (
        lambda: hf_models.gemma3(11, vocab_size=SIZE, num_hidden_layers=7, sliding_window_pattern=6, **_IDS),
        _gemma,
    ),
    "gemma3, with pictures": (
        lambda: hf_models.gemma3_with_pictures(16, vocab_size=SIZE, **_IDS),
        _gemma_pictured,
    ),
    "mistral3": (lambda: hf_pixtral.mistral3(20, text={"vocab_size": SIZE}), _pictured),
    "mistral3, temperatures": (lambda: hf_pixtral.mistral3(21, text=_MINISTRAL), _pictured),
    "pixtral": (lambda: hf_pixtral.pixtral(22, text={"vocab_size": SIZE}), _pictured),
    "granite": (lambda: hf_models.granite(12, vocab_size=SIZE, logits_scaling=4.0), _json),
    "olmo2": (lambda: hf_models.olmo("Olmo2", 13, vocab_size=SIZE), _json),
    "olmo3": (lambda: hf_models.olmo("Olmo3", 14, vocab_size=SIZE), _json),
    "gpt-oss": (lambda: hf_models.gpt_oss(15, vocab_size=SIZE), _json),
    "gpt-oss, blocks": (lambda: hf_models.gpt_oss(17, vocab_size=SIZE), _blocks),
    "lfm2": (lambda: hf_models.lfm2("Lfm2", 20, vocab_size=SIZE), _json),
    "lfm2, width as in the first ones": (
        lambda: hf_models.lfm2(
            "Lfm2", 21, vocab_size=SIZE, block_auto_adjust_ff_dim=True, block_multiple_of=16
        ),
        _json,
    ),
    "lfm2moe": (lambda: hf_models.lfm2("Lfm2Moe", 22, vocab_size=SIZE), _json),
    "phi3": (lambda: hf_models.phi3(20, vocab_size=SIZE, sliding_window=40, **_IDS), _pieces),
    "phi3, long": (lambda: hf_models.phi3(21, vocab_size=SIZE, rope_parameters=_LONG), _gpt2),
    "ministral3": (
        lambda: hf_models.mistral(
            "Ministral3",
            22,
            vocab_size=SIZE,
            rope_parameters=_YARN | _MSCALES | {"llama_4_scaling_beta": 0.3},
        ),
        _json,
    ),
    "command-r": (lambda: hf_models.cohere("Cohere", 23, vocab_size=SIZE, use_qk_norm=True), _json),
    "cohere2": (
        lambda: hf_models.cohere("Cohere2", 24, vocab_size=SIZE, num_hidden_layers=5, rotary_pct=1.0),
        _json,
    ),
    "glm4": (lambda: hf_models.glm4(25, vocab_size=SIZE), _user),
    "starcoder2": (lambda: hf_models.starcoder2(26, vocab_size=SIZE, sliding_window=40), _json),
    "deepseek2": (
        lambda: hf_models.deepseek("V2", 27, vocab_size=SIZE, q_lora_rank=None, scoring_func="softmax"),
        _json,
    ),
    "deepseek2, groups": (
        lambda: hf_models.deepseek(
            "V2",
            28,
            vocab_size=SIZE,
            scoring_func="softmax",
            topk_method="group_limited_greedy",
            n_group=4,
            topk_group=2,
        ),
        _json,
    ),
    "deepseek3, eight bits, more layers": (
        lambda: hf_models.deepseek(
            "V3",
            29,
            vocab_size=SIZE,
            scoring_func="sigmoid",
            n_group=4,
            topk_group=2,
            rope_parameters=_YARN | _MSCALES,
        ),
        _more_layers,
    ),
    "glm flash": (
        lambda: hf_models.deepseek("Flash", 33, vocab_size=SIZE, scoring_func="sigmoid"),
        _user,
    ),
    "llama4": (lambda: hf_models.llama4(30, vocab_size=SIZE, rope_parameters=_LLAMA3, **_SIGHT), _json),
    "llama4, layers without experts": (
        lambda: hf_models.llama4(31, vocab_size=SIZE, interleave_moe_layer_step=2, **_SIGHT),
        _json,
    ),
    "gemma3n": (
        lambda: hf_models.gemma3n(32, vocab_size=SIZE, vocab_size_per_layer_input=SIZE - 16, **_IDS),
        _unused,
    ),
    "llama, eight bits": (lambda: hf_models.llama(18, vocab_size=SIZE), _eight_bits),
}

# Of these there is an image encoder, which llama.cpp has in a file of its own: its names, by those here.
SEEING: dict[str, dict[str, str]] = {
    "gemma3, with pictures": {
        "patch_embedding": "patch_embd",
        "position_embedding": "position_embd",
        "post_layernorm": "post_ln",
        "attn_output": "attn_out",
        "layer_norm": "ln",
        "mlp.fc1": "ffn_up",
        "mlp.fc2": "ffn_down",
        "mm.mm_": "mm.",
    },
    **dict.fromkeys(("mistral3", "mistral3, temperatures", "pixtral"), hf_pixtral.OF_LLAMA_CPP),
}

# What only llama.cpp writes: what it makes of the folder's name, and of the number of weights; and whether a
# separator is put between two texts, which nothing asks of a decoder.
THEIRS_ONLY = {
    *("general.name", "general.size_label", "general.basename", "general.version"),
    "tokenizer.ggml.add_sep_token",
}

# Roles that are part of llama.cpp's program; here they are what generation_config.json says.
THEIRS_OF_GLM = {f"tokenizer.ggml.{role}_token_id" for role in ("eot", "eom", "unknown")}

# What is said of pictures, which llama.cpp does in another file.
OF_PICTURES = re.compile(r"\.(vision|mm)\.|\.image_token_index$|\.spatial_merge_size$")

# What only is written here, with the reason.
OURS_ONLY = {
    # llama.cpp writes it where the configuration does; everywhere it follows from the sizes.
    "attention.key_length",
    "attention.value_length",
    # It always is 10000 in what was published, and readers take it for granted.
    "gemma2.rope.freq_base",
    # See `_SIGHT`.
    *("llama4.attention.chunk_size", "llama4.use_qk_norm"),
    *("llama4.attention.temperature_length", "llama4.attention.temperature_scale"),
    # llama.cpp's StarCoder 2 has no window.
    "starcoder2.attention.sliding_window",
    # tokenizer.model says so; llama.cpp writes it for other families only.
    "tokenizer.ggml.add_space_prefix",
    # tokenizer.model names it by its text; llama.cpp looks for texts in tokenizer.json only.
    "tokenizer.ggml.unknown_token_id",
}


def _name(case: str) -> str:
    return case.replace(", ", "-").replace(" ", "-")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each case as a folder, and as `ours` and `theirs`."""
    root = tmp_path_factory.mktemp("against")
    tasks = []
    for case, (model, tokenizer) in CASES.items():
        folder = root / _name(case)
        model().bfloat16().save_pretrained(folder)
        tokenizer(folder)
        convert(folder, root / f"{_name(case)}.ours", lambda progress: None)
        tasks.append(Task(folder, root / f"{_name(case)}.theirs", "llama-bpe"))
        if case in SEEING:
            tasks.append(Task(folder, root / f"{_name(case)}.projector", sees=True))
    convert_all(tasks)
    return root


def contents(file: GGUFFile) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    data = file.path.read_bytes()
    return {
        name: (found.type.name, found.shape, data[found.offset : found.offset + found.nbytes])
        for name, found in file.tensors.items()
    }


def same(name: str, mine: Any, other: Any) -> bool:
    """Whether a value or a tensor is; those that llama.cpp computes in single precision may be next to it."""
    if name == "rope_freqs.weight":
        mine, other = (np.frombuffer(tensor[2], np.float32) for tensor in (mine, other))
    elif name != "gemma3n.activation_sparsity_scale":
        return bool(mine == other)
    return bool(np.allclose(mine, other, rtol=3e-7, atol=0))


def different(mine: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The names that both have for different things."""
    return [name for name in mine.keys() & other.keys() if not same(name, mine[name], other[name])]


@pytest.mark.parametrize("case", SEEING)
def test_image_encoders_are_the_same(converted: Path, case: str) -> None:
    """The numbers, whatever the types; llama.cpp has rows of queries and keys of Pixtral in another order."""
    path = converted / _name(case)
    with (
        GGUFFile.open(path.with_suffix(".ours")) as ours,
        GGUFFile.open(path.with_suffix(".projector")) as theirs,
    ):
        expected = numbers(theirs)
        line_break = expected.pop("v.token_embd.img_break", None)
        mine = numbers(ours)
        for name, value in mine.items():
            if not name.startswith(("v.", "mm.")):
                continue
            if "gemma" not in case and name.endswith(("attn_q.weight", "attn_k.weight")):
                value = permuted(value, theirs.metadata.uint("vision.attention.head_count"))
            for own, other in SEEING[case].items():
                name = name.replace(own, other)
            assert np.array_equal(value, expected.pop(name)), name
        assert not expected
        if line_break is not None:
            break_id = ours.metadata.strings("tokenizer.ggml.tokens").index("[IMG_BREAK]")
            assert np.array_equal(mine["token_embd.weight"][break_id], line_break)
        own_keys, architecture = dict(ours.metadata), ours.metadata.architecture
        shared = [key for key in theirs.metadata if key.replace("clip.", f"{architecture}.") in own_keys]
        assert "clip.vision.block_count" in shared
        for key in shared:
            if key.startswith("clip."):
                assert own_keys[key.replace("clip.", f"{architecture}.")] == theirs.metadata[key], key


def numbers(file: GGUFFile) -> dict[str, NDArray[np.float32]]:
    """The tensors in single precision."""
    return {
        name: gguf.quants.dequantize(
            np.frombuffer(data, np.uint8 if kind == "BF16" else f"<f{2 if kind == 'F16' else 4}"),
            gguf.GGMLQuantizationType[kind],
        ).reshape(shape)
        for name, (kind, shape, data) in contents(file).items()
    }


def types(file: GGUFFile) -> Mapping[str, tuple[ValueType, ValueType]]:
    return {key: (entry.type, entry.element) for key in file.metadata if (entry := file.metadata.entry(key))}


@pytest.mark.parametrize("case", CASES)
def test_files_say_the_same(converted: Path, case: str) -> None:
    path = converted / _name(case)
    with (
        GGUFFile.open(path.with_suffix(".ours")) as ours,
        GGUFFile.open(path.with_suffix(".theirs")) as theirs,
    ):
        tensors, others = contents(ours), contents(theirs)
        tensors = {name: made for name, made in tensors.items() if not name.startswith(("v.", "mm."))}
        assert tensors.keys() == others.keys()
        assert different(tensors, others) == []
        mine, other = dict(ours.metadata), dict(theirs.metadata)
        assert other.keys() - mine.keys() <= THEIRS_ONLY | (
            THEIRS_OF_GLM if case.startswith("glm") else set()
        )
        more = {key for key in mine.keys() - other.keys() if not OF_PICTURES.search(key)}
        assert {key for key in more if not {key, key.split(".", 1)[1]} & OURS_ONLY} == set()
        shared = mine.keys() & other.keys()
        assert different(mine, other) == []
        kinds, other_kinds = types(ours), types(theirs)
        assert {key: kinds[key] for key in shared} == {key: other_kinds[key] for key in shared}


@pytest.mark.parametrize("case", CASES)
def test_their_files_give_the_same_logits(converted: Path, case: str) -> None:
    tokens = [token % SIZE for token in hf_models.random_tokens(3, 20)]
    path = converted / _name(case)
    found = []
    for kind in ("ours", "theirs"):
        with opened(path.with_suffix(f".{kind}"), "ggml") as evaluator:
            found.append(evaluate(evaluator, tokens, chunk=20))
    assert np.array_equal(found[0], found[1])


def test_a_real_tokenizer(smollm2_path: Path, converted: Path, tmp_path: Path) -> None:
    """SmolLM2's, written out from its GGUF file: llama.cpp finds its pre-tokenizer out by itself."""
    with GGUFFile.open(smollm2_path) as file:
        texts = [text.decode() for text in file.metadata.strings_bytes("tokenizer.ggml.tokens")]
        kinds = [*file.metadata.array("tokenizer.ggml.token_type")]
        merges = [text.decode() for text in file.metadata.strings_bytes("tokenizer.ggml.merges")]
    special = [id for id, kind in enumerate(kinds) if kind != 1]
    document = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": id,
                "content": texts[id],
                "special": True,
                **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
            }
            for id in special
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {text: id for id, text in enumerate(texts)},
            "merges": merges,
            **dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")),
            **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False),
        },
    }
    folder = tmp_path / "folder"
    hf_models.llama(1, vocab_size=len(texts), hidden_size=8, num_hidden_layers=1).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(document))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "bos_token": "<|im_start|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    convert(folder, tmp_path / "ours", lambda progress: None)
    convert_all([Task(folder, tmp_path / "theirs")])
    with GGUFFile.open(tmp_path / "ours") as ours, GGUFFile.open(tmp_path / "theirs") as theirs:
        keys = [key for key in theirs.metadata if key.startswith("tokenizer.")]
        assert {key: ours.metadata[key] for key in keys} == {key: theirs.metadata[key] for key in keys}
        assert ours.metadata["tokenizer.ggml.pre"] == "smollm"
    shutil.rmtree(folder)
