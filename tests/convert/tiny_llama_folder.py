"""A tiny Llama as a folder, without the libraries that usually write one."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

TOKENS, HIDDEN, HEADS, KV_HEADS, WIDE = 300, 16, 4, 2, 24


def _byte_characters() -> list[str]:
    """GPT-2's letters for bytes."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in kept] + [chr(0x100 + n) for n in range(256 - len(kept))]


def tokenizer() -> dict[str, Any]:
    """Bytes, two merges and two control tokens."""
    words = [*_byte_characters(), "he", "hel"]
    return {
        "added_tokens": [
            {"id": 258, "content": "<|begin|>", "special": True},
            {"id": 259, "content": "<|eot_id|>", "special": True},
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {word: id for id, word in enumerate(words)},
            "merges": ["h e", "he l"],
        },
    }


def _shapes(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    keys = KV_HEADS * HIDDEN // HEADS
    yield "model.embed_tokens.weight", (TOKENS, HIDDEN)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (TOKENS, HIDDEN)
    for layer in range(layers):
        stem = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{stem}{name}.weight", (HIDDEN,)
        for name, rows in (("q", HIDDEN), ("k", keys), ("v", keys), ("o", HIDDEN)):
            yield f"{stem}self_attn.{name}_proj.weight", (rows, HIDDEN)
        for name, shape in (("gate", (WIDE, HIDDEN)), ("up", (WIDE, HIDDEN)), ("down", (HIDDEN, WIDE))):
            yield f"{stem}mlp.{name}_proj.weight", shape


def _tensors() -> dict[str, Any]:
    random = np.random.default_rng(1)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in _shapes(2)}


def _config() -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": WIDE,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 128,
        "vocab_size": TOKENS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }


@dataclass
class LlamaFolder:
    """What is in the folder; `write` puts it there."""

    config: dict[str, Any] = field(default_factory=_config)
    tensors: dict[str, Any] = field(default_factory=_tensors)
    files: dict[str, bytes] = field(
        default_factory=lambda: {"tokenizer.json": json.dumps(tokenizer()).encode()}
    )

    def write(self, folder: Path) -> Path:
        """The folder with everything in it."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        save_file(self.tensors, folder / "model.safetensors")
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder


def write_header(path: Path, header: bytes, size: int = 0) -> None:
    """A safetensors file with that header, and as many zeros behind it."""
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
