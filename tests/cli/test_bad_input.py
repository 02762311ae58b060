"""Model files with something wrong, and options that do not fit the model: one line, status 1, no traces."""

import io
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.altered import Shape, Value, altered

from puna.cli import main

Puna = Callable[..., "subprocess.CompletedProcess[str]"]

PAGE = 4096
FEW = ("--threads", "1", "--num-predict", "1")
UNUSED_TYPE, UNKNOWN_TYPE = 4, 99


@pytest.fixture
def refused(puna: Puna, tmp_path: Path, home: Path) -> Callable[..., str]:
    """Runs a command in a process of its own, and gives what it was refused with."""

    def run(*arguments: str | Path) -> str:
        before = sorted(tmp_path.rglob("*"))
        result = puna(*arguments, PUNA_MODELS=str(tmp_path / "store"))
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1 and result.stderr.endswith("\n")
        assert sorted(tmp_path.rglob("*")) == before
        return result.stderr.removeprefix("Error: ")

    return run


def test_a_file_cut_at_any_page_is_refused(
    base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUNA_MODELS", str(tmp_path / "store"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    whole = base_model.read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in (*range(0, len(whole), PAGE), len(whole) - 1):
        cut.write_bytes(whole[:size])
        for arguments in (["run", str(cut), "hi"], ["inspect", str(cut)], ["bench", str(cut)]):
            assert main.run(arguments) == 1, (size, arguments)
            out, err = capsys.readouterr()
            assert out == "" and err.startswith(f"Error: {cut}: ") and err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == [cut]


@pytest.mark.parametrize("command", ["run", "inspect", "bench"])
def test_a_cut_file_is_refused_in_a_process_of_its_own(
    base_model: Path, tmp_path: Path, refused: Callable[..., str], command: str
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(base_model.read_bytes()[: 20 * PAGE])
    prompt = ["hi"] if command == "run" else []
    assert "but the file ends at byte 81920" in refused(command, cut, *prompt)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"general.architecture": "quux"},
            "models of architecture 'quux' are not supported; known: bert, ",
        ),
        ({"general.architecture": None}, "the key 'general.architecture' is missing"),
        ({"llama.attention.head_count": "x"}, "must be an unsigned integer, but is a string"),
        ({"llama.attention.head_count": 7}, "2 key heads cannot be shared by 7 query heads evenly"),
        ({"llama.block_count": 0}, "must be at least 1, but is 0"),
        ({"llama.block_count": 3}, "it lacks blk.2.attn_norm.weight, "),
        ({"llama.block_count": 1}, "nothing uses blk.1.attn_k.weight, "),
        ({"llama.block_count": 10**9}, "layers are more than any model has"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "rms_epsilon' cannot be nan"),
        ({"llama.attention.layer_norm_rms_epsilon": -1.0}, "rms_epsilon' cannot be -1.0"),
        ({"llama.attention.key_length": 10**9}, "128 × 64 instead of 6000000032 × 64"),
        ({"llama.rope.freq_base": 0.0}, "rotary embeddings cannot have the frequency base 0.0"),
        ({"tokenizer.ggml.model": "runes"}, "tokenizer.ggml.model 'runes' is not supported"),
        ({"tokenizer.ggml.merges": ["abc"]}, "tokenizer.ggml.merges holds 'abc'"),
        ({"tokenizer.chat_template": "{% for %}"}, "the model's chat template cannot be read: line 1"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_metadata_that_makes_no_model(
    base_model: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    metadata: dict[str, Value],
    message: str,
) -> None:
    path = altered(base_model, tmp_path / "m.gguf", metadata=metadata)
    assert message in refused("run", path, *FEW, "hi")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"blk.1.ffn_up.weight": None}, "it lacks blk.1.ffn_up.weight"),
        ({"token_embd.weight": None}, "it lacks token_embd.weight"),
        ({"blk.0.extra.weight": (4, 4)}, "nothing uses blk.0.extra.weight"),
        ({"output_norm.weight": (63,)}, "output_norm.weight is 63 instead of 64"),
        ({"blk.0.attn_output.weight": (4096,)}, "blk.0.attn_output.weight is 4096 instead of 64 × 64"),
        ({"token_embd.weight": (100, 64)}, "token_embd.weight is 100 × 64 instead of 258 × 64"),
    ],
    ids=["missing", "no embedding", "unused", "norm", "axes", "fewer rows than tokens"],
)
def test_tensors_that_make_no_model(
    base_model: Path, tmp_path: Path, refused: Callable[..., str], tensors: dict[str, Shape], message: str
) -> None:
    path = altered(base_model, tmp_path / "m.gguf", tensors=tensors)
    assert f"the file does not fit the model: {message}" in refused("run", path, *FEW, "hi")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (UNUSED_TYPE, "is 4 (Q4_2), which is no longer in use"),
        (UNKNOWN_TYPE, "is 99, which is no known type"),
    ],
)
@pytest.mark.parametrize("command", ["run", "inspect"])
def test_an_unknown_tensor_type(
    base_model: Path, tmp_path: Path, refused: Callable[..., str], command: str, number: int, message: str
) -> None:
    content = bytearray(base_model.read_bytes())
    name = b"blk.0.ffn_up.weight"
    # Behind the name: the number of axes, two sizes, the type.
    place = content.index(name) + len(name) + struct.calcsize("<IQQ")
    struct.pack_into("<I", content, place, number)
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    prompt = ["hi"] if command == "run" else []
    error = refused(command, path, *prompt)
    assert "the type of tensor 'blk.0.ffn_up.weight'" in error and message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "-o", "num_ctx=1"], "the prompt has 2 tokens, but the context holds 1"),
        (["run", "-o", "num_batch=0"], "num_batch must be a whole number from 1 to 16384, not 0"),
        (["run", "--threads", "100000"], "num_thread must be a whole number from 0 to 512, not 100000"),
        (["run", "-o", "main_gpu=99"], "main_gpu is 99, but there "),
        (["run", "-o", "tensor_split=-1"], "tensor_split"),
        (["run", "-o", "mirostat=3"], "mirostat must be a whole number from 0 to 2, not 3"),
        (["run", "--kv-cache-type", ""], "kv_cache_type is ''; it can be f16"),
        (["inspect", "--num-ctx", "-1"], "num_ctx must be at least 1, but is -1"),
        (["bench", "-p", "0", "-n", "0"], "there is nothing to measure"),
        (["bench", "-p", "100000000"], "needs a context of 100000000 tokens; this model was trained on 4096"),
        (["bench", "-p", "1", "-n", "1", "--batch", "100000"], "there are at most 64 sequences"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_do_not_fit(
    base_model: Path, refused: Callable[..., str], arguments: list[str], message: str
) -> None:
    prompt = ["hi"] if arguments[0] == "run" else []
    assert message in refused(*arguments, base_model, *prompt)
