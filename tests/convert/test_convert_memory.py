"""Peak memory of a conversion, which is far below the size of the model."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from math import prod
from pathlib import Path

import pytest

# With Python itself and its modules, which take some 20 MB.
BOUND = 64 << 20
LAYERS, HIDDEN, WIDE, TOKENS, HEADS = 6, 1024, 4096, 8192, 8

CODE = """
import pathlib, re, sys
from puna.convert.convert import convert
convert(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), lambda progress: None)
print(re.search(r"VmHWM:\\s+([0-9]+) kB", pathlib.Path("/proc/self/status").read_text())[1])
"""


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (TOKENS, HIDDEN)
    yield "model.norm.weight", (HIDDEN,)
    for layer in range(LAYERS):
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{name}.weight", (HIDDEN,)
        for name in "qkvo":
            yield f"model.layers.{layer}.self_attn.{name}_proj.weight", (HIDDEN, HIDDEN)
        for name, shape in (("gate", (WIDE, HIDDEN)), ("up", (WIDE, HIDDEN)), ("down", (HIDDEN, WIDE))):
            yield f"model.layers.{layer}.mlp.{name}_proj.weight", shape


def write_sparse(path: Path, tensors: dict[str, tuple[int, ...]]) -> int:
    """A safetensors file of zeros in BF16 that takes no room on the disk; its size."""
    header, end = {}, 0
    for name, shape in tensors.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + 2 * prod(shape)]}
        end += 2 * prod(shape)
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return end


def write_model(folder: Path, tensors: dict[str, tuple[int, ...]]) -> int:
    """A Llama of zeros; the bytes of its weights."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": WIDE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 128,
        "vocab_size": TOKENS,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    words = {f"w{id}": id for id in range(TOKENS)}
    tokenizer = {
        "pre_tokenizer": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": words, "merges": ["w 1"]},
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return write_sparse(folder / "model.safetensors", tensors)


def peak(folder: Path, target: Path) -> int:
    """Bytes that a process takes which converts the folder."""
    command = [sys.executable, "-c", CODE, str(folder), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout) << 10


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what a process has taken at most")
def test_a_model_larger_than_the_bound(tmp_path: Path) -> None:
    size = write_model(tmp_path / "folder", dict(shapes()))
    assert size > BOUND * 1.5
    assert peak(tmp_path / "folder", tmp_path / "model.gguf") < BOUND
    assert (tmp_path / "model.gguf").stat().st_size > size
