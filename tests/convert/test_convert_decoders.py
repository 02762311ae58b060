"""Folders of decoders: what is refused with one sentence, and what is left behind then: nothing."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.convert.tiny_llama_folder import HIDDEN, WIDE, LlamaFolder, write_header
from tests.models.driver import evaluate, opened

from puna.convert.convert import Converted, convert
from puna.errors import FormatError, PunaError, UnsupportedModel, WeightError
from puna.gguf import GGMLType, GGUFFile

Change = Callable[[LlamaFolder], object]


def refused(written: Path, path: Path) -> PunaError:
    """The error, after a look that nothing was written."""
    with pytest.raises(PunaError) as caught:
        convert(written, path / "model.gguf", lambda progress: None)
    assert [entry.name for entry in path.iterdir()] == ["folder"]
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    return caught.value


def test_a_model_that_computes(tmp_path: Path) -> None:
    convert(LlamaFolder().write(tmp_path / "folder"), tmp_path / "model.gguf", lambda progress: None)
    with opened(tmp_path / "model.gguf", "reference") as evaluator:
        assert np.isfinite(evaluate(evaluator, [1, 2, 3], chunk=3)).all()


def test_how_the_makers_want_it_to_choose(tmp_path: Path) -> None:
    folder = LlamaFolder()
    stated = {"temperature": 0.6, "top_k": 20.0, "top_p": 0.95, "min_p": 7, "repetition_penalty": True}
    folder.files["generation_config.json"] = json.dumps(stated).encode()
    made = convert(folder.write(tmp_path / "folder"), tmp_path / "model.gguf", lambda progress: None)
    assert made == Converted(None, {"temperature": 0.6, "top_k": 20, "top_p": 0.95})
    with GGUFFile.open(tmp_path / "model.gguf") as file:
        assert file.metadata["general.sampling.top_k"] == 20
    folder.files["generation_config.json"] = json.dumps(stated | {"do_sample": False}).encode()
    made = convert(folder.write(tmp_path / "folder"), tmp_path / "model.gguf", lambda progress: None)
    assert made.sampling == {}


@pytest.mark.parametrize(("window", "longest"), [(None, 128), (40, 40), (4096, 128)])
def test_a_window_limits_texts(tmp_path: Path, window: int | None, longest: int) -> None:
    folder = LlamaFolder()
    folder.config |= {"architectures": ["MistralForCausalLM"], "sliding_window": window}
    convert(folder.write(tmp_path / "folder"), tmp_path / "model.gguf", lambda progress: None)
    with GGUFFile.open(tmp_path / "model.gguf") as file:
        assert file.metadata["llama.context_length"] == longest


def test_types_stay_as_they_are(tmp_path: Path) -> None:
    folder = LlamaFolder()
    folder.tensors = {name: value.astype(np.float16) for name, value in folder.tensors.items()}
    convert(folder.write(tmp_path / "folder"), tmp_path / "model.gguf", lambda progress: None)
    with GGUFFile.open(tmp_path / "model.gguf") as file:
        assert file.metadata["general.file_type"] == 1
        assert file.tensors["blk.0.attn_q.weight"].type is GGMLType.F16
        assert file.tensors["blk.0.attn_norm.weight"].type is GGMLType.F32


def setting(**values: Any) -> Change:
    return lambda folder: folder.config.update(values)


def tensor(name: str, shape: tuple[int, ...] | None, kind: Any = np.float32) -> Change:
    """Another tensor of that name, or none."""
    if shape is None:
        return lambda folder: folder.tensors.pop(name)
    return lambda folder: folder.tensors.update({name: np.zeros(shape, kind)})


def mixture(*experts: tuple[int, tuple[int, int], Any]) -> Change:
    """Layer 0 as a mixture of these experts: numbers, shapes and types."""

    def change(folder: LlamaFolder) -> None:
        folder.config |= {"architectures": ["MixtralForCausalLM"], "num_local_experts": 2}
        for number, shape, kind in experts:
            name = f"model.layers.0.block_sparse_moe.experts.{number}.w1.weight"
            folder.tensors[name] = np.zeros(shape, kind)

    return change


QUERY = "model.layers.1.self_attn.q_proj.weight"
BAD: dict[str, tuple[Change, type[PunaError], str]] = {
    "no layers": (setting(num_hidden_layers=0), FormatError, "'num_hidden_layers' must be a whole number"),
    "many layers": (setting(num_hidden_layers=10**6), UnsupportedModel, "layers are more than any"),
    "huge": (setting(hidden_size=2**40), FormatError, "'hidden_size' must be a whole number"),
    "wider than it is": (setting(hidden_size=2**30), WeightError, "instead of 300 × 1073741824"),
    "no heads": (setting(num_attention_heads=0), FormatError, "'num_attention_heads' must be"),
    "more heads than width": (setting(num_attention_heads=10**6), UnsupportedModel, "do not go together"),
    "uneven heads": (setting(num_key_value_heads=3), UnsupportedModel, "do not go together"),
    "odd heads": (setting(head_dim=3), UnsupportedModel, "3 dimensions of each do not go together"),
    "no numbers": (setting(rms_norm_eps="small"), FormatError, "'rms_norm_eps' must be a number"),
    "no epsilon": (lambda folder: folder.config.pop("rms_norm_eps"), FormatError, "not missing"),
    "another activation": (setting(hidden_act="relu"), UnsupportedModel, "hidden_act 'relu'"),
    "rotation of a kind": (
        setting(rope_scaling={"rope_type": "longrope", "factor": 2.0}),
        UnsupportedModel,
        "scaled by 'longrope'",
    ),
    "rotation without factor": (setting(rope_scaling={"type": "linear"}), FormatError, "'factor' must be"),
    "rotation in a list": (setting(rope_scaling=[1]), FormatError, "'rope_scaling' must be an object"),
    "rotation of a part": (
        setting(rope_parameters={"rope_theta": 1e4, "partial_rotary_factor": 0.5}),
        UnsupportedModel,
        "only a part of each head",
    ),
    "other quantization": (
        setting(quantization_config={"quant_method": "awq"}),
        UnsupportedModel,
        "quantized by 'awq'",
    ),
    "quantization in a list": (setting(quantization_config=[]), FormatError, "must be an object"),
    "a tensor too few": (tensor(QUERY, None), WeightError, "they lack layers.1.self_attn.q_proj.weight"),
    "a tensor too many": (tensor("model.evil", (1,)), WeightError, "nothing uses evil"),
    "another shape": (tensor(QUERY, (16, 17)), WeightError, "is 16 × 17 instead of 16 × 16"),
    "a number": (tensor(QUERY, ()), WeightError, "is a number instead of 16 × 16"),
    "whole numbers": (tensor(QUERY, (16, 16), np.int8), FormatError, "elements of type I8"),
    "norms of whole numbers": (tensor("model.norm.weight", (16,), np.int64), FormatError, "of type I64"),
    "no head": (tensor("lm_head.weight", None), WeightError, "they lack lm_head.weight"),
    "two with one name": (
        tensor("language_model.model.norm.weight", (16,)),
        FormatError,
        "the name norm.weight",
    ),
    "experts missing": (mixture((1, (WIDE, HIDDEN), np.float32)), WeightError, "has 1 experts of 2"),
    "experts of two shapes": (
        mixture((0, (WIDE, HIDDEN), np.float32), (1, (WIDE, HIDDEN + 1), np.float32)),
        WeightError,
        "have several shapes or types",
    ),
    "experts of two types": (
        mixture((0, (WIDE, HIDDEN), np.float32), (1, (WIDE, HIDDEN), np.float16)),
        WeightError,
        "have several shapes or types",
    ),
    "an expert of a huge number": (
        mixture((10**12, (WIDE, HIDDEN), np.float32)),
        WeightError,
        "nothing uses layers.0.block_sparse_moe.experts.1000000000000",
    ),
    "halves that are none": (
        lambda folder: folder.tensors.update(
            {"model.layers.0.mlp.experts.gate_up_proj": np.zeros((2, 3, 4), np.float32)}
        ),
        WeightError,
        "has the shape (2, 3, 4)",
    ),
    "no tokenizer": (lambda folder: folder.files.clear(), FormatError, "there is no vocabulary"),
    "JSON of a list": (
        lambda folder: folder.files.update({"generation_config.json": b"[]"}),
        FormatError,
        "generation_config.json is no JSON object",
    ),
    "deep JSON": (
        lambda folder: folder.files.update({"tokenizer_config.json": b'{"a":' * 10**5}),
        FormatError,
        "tokenizer_config.json is no JSON",
    ),
    "numbers too long for Python": (
        lambda folder: folder.files.update({"generation_config.json": b'{"top_k": ' + b"9" * 5000 + b"}"}),
        FormatError,
        "generation_config.json is no JSON",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_converted(tmp_path: Path, case: str) -> None:
    change, kind, message = BAD[case]
    folder = LlamaFolder()
    change(folder)
    error = refused(folder.write(tmp_path / "folder"), tmp_path)
    assert isinstance(error, kind), error
    assert message in str(error)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_documents_larger_than_any(tmp_path: Path, name: str) -> None:
    written = LlamaFolder().write(tmp_path / "folder")
    with (written / name).open("wb") as file:
        file.truncate(1 << 40)
    assert "is no regular file of at most" in str(refused(written, tmp_path))


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 4, "end at byte"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}', 16, "or a hole is before it"),
        (b'{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,8]}}', 8, "no sensible shape"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":1}', 8, "'a' is there twice"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}', 8, "takes 8 bytes, but its offsets"),
    ],
)
def test_weights_that_are_not_where_they_should_be(
    tmp_path: Path, header: bytes, size: int, message: str
) -> None:
    written = LlamaFolder().write(tmp_path / "folder")
    write_header(written / "model.safetensors", header, size)
    assert message in str(refused(written, tmp_path))


def test_parts_with_the_same_tensor(tmp_path: Path) -> None:
    folder = LlamaFolder()
    written = folder.write(tmp_path / "folder")
    (written / "model.safetensors").unlink()
    save_file(folder.tensors, written / "model-00001-of-00002.safetensors")
    save_file({"model.norm.weight": np.zeros(HIDDEN)}, written / "model-00002-of-00002.safetensors")
    assert "'model.norm.weight' is in another file too" in str(refused(written, tmp_path))


def test_an_index_of_parts_opens_nothing(tmp_path: Path) -> None:
    """Files are found by their own names, whatever the index says."""
    folder = LlamaFolder()
    index = {"weight_map": {"model.norm.weight": "../../etc/passwd", "lm_head.weight": "/dev/zero"}}
    folder.files["model.safetensors.index.json"] = json.dumps(index).encode()
    convert(folder.write(tmp_path / "folder"), tmp_path / "model.gguf", lambda progress: None)


def test_weights_cut_off_after_they_were_looked_at(tmp_path: Path) -> None:
    folder = LlamaFolder()
    # Larger than what is read at once, so that the file can shrink between two pieces.
    folder.config["intermediate_size"] = wide = 1 << 16
    for layer in range(2):
        for name, shape in (("gate", (wide, HIDDEN)), ("up", (wide, HIDDEN)), ("down", (HIDDEN, wide))):
            folder.tensors[f"model.layers.{layer}.mlp.{name}_proj.weight"] = np.zeros(shape, np.float32)
    written = folder.write(tmp_path / "folder")
    with pytest.raises(FormatError, match="has been cut off"):
        convert(
            written,
            tmp_path / "model.gguf",
            lambda progress: os.truncate(written / "model.safetensors", 10_000),
        )
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("rounds", [200, pytest.param(20_000, marks=pytest.mark.slow)], ids=["short", "long"])
def test_damaged_files(tmp_path: Path, rounds: int) -> None:
    """Whatever bytes are changed: a model, or one sentence and nothing left behind."""
    random = Random(5)
    folder = LlamaFolder()
    folder.files["tokenizer_config.json"] = b'{"bos_token": "<|begin|>", "add_bos_token": true}'
    folder.files["generation_config.json"] = b'{"temperature": 0.5, "eos_token_id": [1, 2]}'
    written = folder.write(tmp_path / "folder")
    whole = {path: path.read_bytes() for path in sorted(written.iterdir())}
    for _ in range(rounds):
        path = random.choice([*whole])
        damaged = bytearray(whole[path])
        for _ in range(random.randint(1, 4)):
            # The header of the weights more often than the weights.
            damaged[random.randrange(min(len(damaged), 2000))] = random.choice(b'\x00\xff"{}[]:,019-aeE. \\')
        path.write_bytes(damaged)
        try:
            convert(written, tmp_path / "model.gguf", lambda progress: None)
        except PunaError as error:
            assert "\n" not in str(error) and len(str(error)) < 900
        (tmp_path / "model.gguf").unlink(missing_ok=True)
        path.write_bytes(whole[path])
        assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    written = LlamaFolder().write(tmp_path / "folder")

    def interrupt(progress: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        convert(written, tmp_path / "model.gguf", interrupt)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_disk_without_room(tmp_path: Path) -> None:
    """What a limit for files does is what a full disk does: a write fails half way."""
    written = LlamaFolder().write(tmp_path / "folder")
    code = (
        "import pathlib, resource, signal, sys\n"
        "from puna.convert.convert import convert\n"
        "from puna.errors import GGUFError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "try: convert(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), lambda progress: None)\n"
        "except GGUFError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(written), str(tmp_path / "model.gguf")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'model.gguf'}: cannot be written: File too large\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
