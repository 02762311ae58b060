"""Models of transformers as GGUF files: converted as their users publish them, and in Ollama's spelling."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puna.convert.convert import convert
from puna.gguf import GGMLType, GGUFFile, GGUFWriter

Array = NDArray[np.float32]
State = dict[str, Array]

# What Ollama's files call the keys, without the architecture; those without a name are not in them.
_OLLAMAS_KEYS = {
    "gemma3": {
        "rope.freq_base": "rope.global.freq_base",
        "rope.freq_base_swa": "rope.local.freq_base",
        "attention.layer_norm_rms_epsilon": "",
    },
    "gpt-oss": {"expert_feed_forward_length": "", "rope.scaling.type": ""},
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


def write_model(path: Path, model: Any) -> None:
    """Writes a decoder, with a tokenizer that has a letter for each token."""
    folder = path.with_suffix("")
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(tiny_tokenizer(model.config.vocab_size)))
    convert(folder, path, lambda progress: None)


def write_ollamas(path: Path, model: Any) -> None:
    """Writes a decoder as `write_model`, with Ollama's names."""
    write_model(path, model)
    content = path.read_bytes()
    with GGUFFile.open(path) as file, GGUFWriter(path) as writer:
        known = file.metadata.architecture
        architecture = _OLLAMAS_ARCHITECTURES.get(known, known)
        for key in file.metadata:
            value = file.metadata[key]
            short = key.removeprefix(f"{known}.")
            name = _OLLAMAS_KEYS[known].get(short, short)
            if key == "general.architecture":
                writer.add(key, architecture)
            elif name:
                full = f"{architecture}.{name}" if short != key else key
                writer.add(full, value, file.metadata.entry(key).element)
        for tensor in file.tensors.values():
            name = tensor.name
            for theirs, ours in _OLLAMAS_TENSORS.get(known, {}).items():
                name = name.replace(theirs, ours)
            data = content[tensor.offset : tensor.offset + tensor.nbytes]
            writer.add_tensor(name, tensor.type, tensor.shape, data)


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
