"""Encoders of transformers as folders that its users publish, and these converted to GGUF."""

import json
import string
from pathlib import Path
from typing import Any

from puna.convert.convert import convert

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CLS, SEP = 2, 3


def write_folder(folder: Path, model: Any, *, pooling: str = "mean_tokens") -> Path:
    """The model with a vocabulary as long as its table, and how a text's vector is made."""
    model.save_pretrained(folder)
    words = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    words += [f"word{number}" for number in range(model.config.vocab_size)]
    vocabulary = [*SPECIAL, *words][: model.config.vocab_size]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    modules = [
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {"cls_token", "mean_tokens", "max_tokens", "lasttoken"}
    settings = {f"pooling_mode_{mode}": mode == pooling for mode in modes}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    return folder


def write_gguf(path: Path, model: Any, *, pooling: str = "mean_tokens", file_type: str = "") -> Path:
    """The GGUF file that the folder becomes."""
    folder = write_folder(path.with_suffix(""), model, pooling=pooling)
    convert(folder, path, lambda progress: None, file_type=file_type)
    return path
