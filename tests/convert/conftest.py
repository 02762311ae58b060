"""A tiny BERT as a folder, written without the libraries that usually do."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "hello", "##ing"]


def _shapes(layers: int, hidden: int, wide: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "embeddings.word_embeddings.weight", (len(WORDS), hidden)
    yield "embeddings.position_embeddings.weight", (16, hidden)
    yield "embeddings.token_type_embeddings.weight", (2, hidden)
    for part in ("weight", "bias"):
        yield f"embeddings.LayerNorm.{part}", (hidden,)
    sizes = {"intermediate.dense": (wide, hidden), "output.dense": (hidden, wide)}
    linear = (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        *sizes,
    )
    for index in range(layers):
        for name in linear:
            rows, columns = sizes.get(name, (hidden, hidden))
            yield f"encoder.layer.{index}.{name}.weight", (rows, columns)
            yield f"encoder.layer.{index}.{name}.bias", (rows,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            for part in ("weight", "bias"):
                yield f"encoder.layer.{index}.{name}.{part}", (hidden,)


@dataclass
class Folder:
    """What is in a model's folder; `write` puts it there."""

    config: dict[str, Any] = field(
        default_factory=lambda: {
            "architectures": ["BertModel"],
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 12,
            "max_position_embeddings": 16,
            "vocab_size": len(WORDS),
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
            "hidden_act": "gelu",
        }
    )
    tensors: dict[str, Any] = field(
        default_factory=lambda: {
            name: np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32)
            for name, shape in _shapes(1, 8, 12)
        }
    )
    files: dict[str, bytes] = field(default_factory=lambda: {"vocab.txt": "\n".join(WORDS).encode()})

    def contents(self, folder: Path) -> Mapping[str, bytes]:
        """All files by name."""
        save_file(self.tensors, folder / "scratch.bin")
        weights = (folder / "scratch.bin").read_bytes()
        (folder / "scratch.bin").unlink()
        return {"config.json": json.dumps(self.config).encode(), "model.safetensors": weights, **self.files}

    def write(self, folder: Path) -> Path:
        """The folder with everything in it."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.contents(folder).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        return folder


@pytest.fixture
def folder() -> Folder:
    """One that is converted without complaint."""
    return Folder()
