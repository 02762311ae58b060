"""Models of transformers as GGUF files: converted as their users publish them, and as others write them."""

import json
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gguf
from puna.convert.convert import convert
from puna.gguf import GGMLType, GGUFFile, GGUFWriter, ValueType

Array = NDArray[np.float32]
State = dict[str, Array]

# What Ollama's files call the keys, without the architecture; those without a name are not in them.
_OLLAMAS_KEYS = {
    "gemma3": {
        "rope.freq_base": "rope.global.freq_base",
        "rope.freq_base_swa": "rope.local.freq_base",
        "attention.layer_norm_rms_epsilon": "",
    },
    "gemma3n": {"rope.freq_base_swa": "rope.freq_base_local"},
    "gpt-oss": {"expert_feed_forward_length": "", "rope.scaling.type": ""},
    "llama4": {
        "feed_forward_length": "intermediate_size",
        "expert_feed_forward_length": "intermediate_size_moe|feed_forward_length",
    },
    "mistral3": {
        "attention.temperature_scale": "rope.scaling_beta",
        "rope.scaling.yarn_beta_fast": "rope.scaling.beta_fast",
        "rope.scaling.yarn_beta_slow": "rope.scaling.beta_slow",
        "rope.scaling.yarn_log_multiplier": "rope.scaling.mscale_all_dim",
    },
    "qwen3moe": {"expert_weights_norm": "norm_top_k_prob"},
}
_OLLAMAS_TENSORS = {
    "gpt-oss": {
        "attn_output": "attn_out",
        "attn_sinks.weight": "attn_sinks",
        "post_attention_norm": "ffn_norm",
    }
}
_OLLAMAS_ARCHITECTURES = {"gpt-oss": "gptoss"}
# Some have the image encoder as well.
_OLLAMAS_MORE = {"llama4": "v.class_embedding"}


def write_model(path: Path, model: Any, **config: Any) -> None:
    """Writes a decoder, with a tokenizer that has a letter for each token.

    Args:
        config: what is changed in `config.json`.
    """
    folder = path.with_suffix("")
    model.save_pretrained(folder)
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stated | config))
    (folder / "tokenizer.json").write_text(
        json.dumps(tiny_tokenizer(model.config.get_text_config().vocab_size))
    )
    convert(folder, path, lambda progress: None)


@dataclass
class Contents:
    """A file's.

    Attributes:
        keys: values and, of arrays, their elements' type.
        tensors: types, shapes and data.
    """

    architecture: str
    keys: dict[str, tuple[Any, ValueType | None]]
    tensors: dict[str, tuple[GGMLType, tuple[int, ...], bytes]]

    @classmethod
    def of(cls, path: Path) -> "Contents":
        data = path.read_bytes()
        with GGUFFile.open(path) as file:
            keys: dict[str, tuple[Any, ValueType | None]] = {
                key: (file.metadata[key], file.metadata.entry(key).element) for key in file.metadata
            }
            tensors = {
                name: (found.type, found.shape, data[found.offset : found.offset + found.nbytes])
                for name, found in file.tensors.items()
            }
            return cls(file.metadata.architecture, keys, tensors)

    def write(self, path: Path) -> None:
        with GGUFWriter(path) as writer:
            for key, (value, element) in self.keys.items():
                writer.add(key, value, element)
            for name, (type_, shape, data) in self.tensors.items():
                writer.add_tensor(name, type_, shape, data)

    def array(self, name: str) -> Array:
        _, shape, data = self.tensors[name]
        return np.frombuffer(data, np.float32).reshape(shape)

    def put(self, name: str, value: Array) -> None:
        self.tensors[name] = (GGMLType.F32, value.shape, np.ascontiguousarray(value).tobytes())


def write_ollamas(path: Path, model: Any, **config: Any) -> None:
    """Writes a decoder as `write_model`, with Ollama's names."""
    write_model(path, model, **config)
    contents = Contents.of(path)
    known = contents.architecture
    architecture = _OLLAMAS_ARCHITECTURES.get(known, known)
    keys: dict[str, tuple[Any, ValueType | None]] = {}
    for key, (value, element) in contents.keys.items():
        short = key.removeprefix(f"{known}.")
        if short == "feed_forward_length" and isinstance(value, list):
            value, element = value[0], None
        for name in filter(None, _OLLAMAS_KEYS[known].get(short, short).split("|")):
            keys[f"{architecture}.{name}" if short != key else key] = (value, element)
    keys["general.architecture"] = (architecture, None)
    tensors = {}
    for name, tensor in contents.tensors.items():
        for theirs, ours in _OLLAMAS_TENSORS.get(known, {}).items():
            name = name.replace(theirs, ours)
        tensors[name] = tensor
    made = Contents(architecture, keys, tensors)
    if known in _OLLAMAS_MORE:
        made.put(_OLLAMAS_MORE[known], np.ones(4, np.float32))
    made.write(path)


def write_expanded(path: Path, model: Any) -> None:
    """Writes a DeepSeek as `write_model`, with keys and values in one matrix, as in older files."""
    write_model(path, model)
    contents, config = Contents.of(path), model.config
    for index in range(config.num_hidden_layers):
        keys, values = (f"blk.{index}.attn_{part}_b.weight" for part in "kv")
        both = np.concatenate([contents.array(keys).swapaxes(1, 2), contents.array(values)], axis=1)
        contents.put(f"blk.{index}.attn_kv_b.weight", both.reshape(-1, config.kv_lora_rank))
        del contents.tensors[keys], contents.tensors[values]
    for part in ("key", "value"):
        del contents.keys[f"deepseek2.attention.{part}_length_mla"]
    contents.keys |= {
        "deepseek2.attention.head_count_kv": (config.num_attention_heads, None),
        "deepseek2.attention.key_length": (config.qk_nope_head_dim + config.qk_rope_head_dim, None),
        "deepseek2.attention.value_length": (config.v_head_dim, None),
    }
    contents.write(path)


def write_narrow(path: Path, model: Any, names: Container[str]) -> None:
    """Writes a decoder as `write_model`, the tensors of those names as Q4_0."""
    write_model(path, model)
    contents = Contents.of(path)
    for name, (_, shape, _) in contents.tensors.items():
        if name in names:
            values = gguf.quants.quantize(contents.array(name), gguf.GGMLQuantizationType.Q4_0)
            contents.tensors[name] = (GGMLType.Q4_0, shape, values.tobytes())
    contents.write(path)


def tiny_tokenizer(size: int) -> dict[str, Any]:
    return {
        "added_tokens": [],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "model": {"type": "BPE", "vocab": {chr(0x4E00 + id): id for id in range(size)}, "merges": ["一 丁"]},
    }


def write(path: Path, architecture: str, keys: dict[str, Any], tensors: State) -> None:
    """Writes F32 tensors, and keys without the architecture before them."""
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", architecture)
        for key, value in keys.items():
            writer.add(f"{architecture}.{key}", value)
        for name, value in tensors.items():
            writer.add_tensor(name, GGMLType.F32, value.shape, np.ascontiguousarray(value).tobytes())
