"""What a file is said to hold, and the memory it is said to need."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from puna.cli.commands.inspect import command
from puna.errors import GGUFError, InvalidOption
from puna.gguf import GGMLType, GGUFFile, GGUFWriter, metadata_of
from puna.gguf.hyperparameters import Hyperparameters, read_hyperparameters
from puna.gguf.inspect import as_plain, inspect_file
from puna.gguf.memory import compute_estimate, kv_cache_bytes, memory_need

GEMMA: dict[str, Any] = {
    "general.architecture": "gemma3",
    "general.name": "Small",
    "general.file_type": 15,
    "gemma3.block_count": 18,
    "gemma3.context_length": 32768,
    "gemma3.embedding_length": 640,
    "gemma3.feed_forward_length": 2048,
    "gemma3.attention.head_count": 4,
    "gemma3.attention.head_count_kv": 1,
    "gemma3.attention.key_length": 256,
    "gemma3.attention.value_length": 256,
    "gemma3.attention.sliding_window": 512,
    "tokenizer.ggml.tokens": [f"token {i}" for i in range(100)],
    "tokenizer.chat_template": "{{ x }}\n\x1b[31m" + "y" * 200,
    "general.nan": float("nan"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with GGUFWriter(tmp_path / "model.gguf") as writer:
        for key, value in GEMMA.items():
            writer.add(key, value)
        writer.add_tensor("token_embd.weight", GGMLType.Q8_0, (100, 640), bytes(100 * 640 // 32 * 34))
        writer.add_tensor("output_norm.weight", GGMLType.F32, (640,), bytes(2560))
        writer.add_tensor("blk.0.attn_norm.weight", GGMLType.F32, (640,), bytes(2560))
    return tmp_path / "model.gguf"


@pytest.fixture(scope="module")
def sizes() -> Hyperparameters:
    return read_hyperparameters(metadata_of(GEMMA))


def test_inspection(path: Path) -> None:
    with GGUFFile.open(path) as file:
        found = inspect_file(file)
    assert (found.architecture, found.name, found.file_type) == ("gemma3", "Small", "Q4_K_M")
    assert (found.version, found.byte_order, found.alignment) == (3, "little", 32)
    assert (found.size, found.parameters) == (path.stat().st_size, 101 * 640 + 640)
    assert [(t.type, t.tensors, t.elements, t.nbytes) for t in found.types] == [
        (GGMLType.Q8_0, 1, 64000, 68000),
        (GGMLType.F32, 2, 1280, 5120),
    ]
    tokens = next(item for item in found.metadata if item.key == "tokenizer.ggml.tokens")
    assert (tokens.type, tokens.length) == ("string[100]", 100)
    assert tokens.value == GEMMA["tokenizer.ggml.tokens"][:6]
    assert found.memory is not None
    assert (found.memory.num_ctx, found.memory.weights) == (4096, 73120)


def test_the_cache_of_a_windowed_model(sizes: Hyperparameters) -> None:
    """18 blocks, three of which see everything; a cell has 256 key and 256 value elements."""
    assert sum(sizes.windowed) == 15
    assert kv_cache_bytes(sizes, 8192, GGMLType.F16) == (3 * 8192 + 15 * 1024) * 512 * 2
    assert kv_cache_bytes(sizes, 8192, GGMLType.Q8_0) == (3 * 8192 + 15 * 1024) * 512 // 32 * 34
    assert kv_cache_bytes(sizes, 1, GGMLType.F32) == 18 * 256 * 512 * 4
    assert kv_cache_bytes(sizes, 300, GGMLType.F32) == 18 * 512 * 512 * 4


def test_blocks_without_attention_have_no_cache(sizes: Hyperparameters) -> None:
    hybrid = replace(sizes, head_count_kv=(0,) * 17 + (2,))
    assert kv_cache_bytes(hybrid, 256, GGMLType.F16) == 256 * 2 * 512 * 2


def test_the_compute_estimate_grows_with_what_it_counts(sizes: Hyperparameters) -> None:
    estimate = compute_estimate(sizes, 4096)
    assert estimate == 4 * 512 * (3 * 640 + 2 * 4 * 256 + 512 + 2 * 2048) + 4 * 100 + 2 * 512 * 4096
    assert compute_estimate(sizes, 8192) - estimate == 2 * 512 * 4096
    assert compute_estimate(replace(sizes, expert_used_count=2), 4096) > estimate


@pytest.mark.parametrize("num_ctx", [0, -1])
def test_a_context_that_makes_no_sense(sizes: Hyperparameters, num_ctx: int) -> None:
    with pytest.raises(InvalidOption, match=f"num_ctx must be at least 1, but is {num_ctx}"):
        memory_need(sizes, 0, num_ctx, GGMLType.F16)


def test_a_type_that_cannot_hold_a_row(sizes: Hyperparameters) -> None:
    with pytest.raises(InvalidOption, match="cannot be stored as Q8_0"):
        kv_cache_bytes(replace(sizes, key_length=40), 256, GGMLType.Q8_0)


def test_a_file_that_is_no_decoder(tmp_path: Path) -> None:
    with GGUFWriter(tmp_path / "a.gguf") as writer:
        writer.add("general.file_type", "odd")
    with GGUFFile.open(tmp_path / "a.gguf") as file:
        found = inspect_file(file)
    assert (found.architecture, found.name, found.file_type, found.memory) == (None, None, None, None)
    assert found.memory_unknown is not None and "general.architecture" in found.memory_unknown
    done = CliRunner().invoke(command, [str(tmp_path / "a.gguf")])
    assert done.exit_code == 0
    assert "Memory needed: not known" in done.stdout


def test_the_command_prints_lines(path: Path) -> None:
    done = CliRunner().invoke(command, [str(path), "--num-ctx", "8192", "--kv-cache-type", "Q8_0"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert "Architecture  gemma3" in lines
    assert "Parameters    65K (65280)" in lines
    assert "  token_embd.weight       Q8_0  100 × 640  68 KB" in lines
    assert "Memory needed for a context of 8192 tokens" in lines
    assert "  KV cache (q8_0)     21 MB" in lines
    assert "\x1b" not in done.stdout
    template = next(line for line in lines if line.startswith("  tokenizer.chat_template"))
    assert r"{{ x }}\n\x1b[31my" in template
    assert template.endswith("… (213 characters)")
    assert all(line == line.rstrip() for line in lines)


def test_the_command_prints_json(path: Path) -> None:
    done = CliRunner().invoke(command, [str(path), "--json", "--num-ctx", "256"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["metadata"]["gemma3.block_count"] == {"type": "uint32", "value": 18}
    assert document["metadata"]["tokenizer.ggml.tokens"]["length"] == 100
    assert document["metadata"]["tokenizer.chat_template"]["value"] == GEMMA["tokenizer.chat_template"]
    assert document["metadata"]["general.nan"]["value"] is None
    assert document["tensors"][0]["type"] == "Q8_0"
    assert document["tensors"][0]["shape"] == [100, 640]
    memory = document["memory"]
    assert memory["total"] == memory["weights"] + memory["kv_cache"] + memory["compute_estimate"]
    with GGUFFile.open(path) as file:
        assert set(document) == set(as_plain(inspect_file(file)))


@pytest.mark.parametrize("options", [["--num-ctx", "0"], []])
def test_the_command_lets_errors_through(tmp_path: Path, path: Path, options: list[str]) -> None:
    target = path if options else tmp_path / "missing.gguf"
    done = CliRunner().invoke(command, [str(target), *options])
    assert isinstance(done.exception, InvalidOption if options else GGUFError)
    assert done.stdout == ""
