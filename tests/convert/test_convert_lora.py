"""LoRA adapters: what llama.cpp's converter makes of them, what they do to a product, and what is refused."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.convert.llama_cpp import AdapterTask, convert_adapters
from tests.models import hf_models
from tests.models.hf_to_gguf import write_model

from puna.convert.lora import convert_adapter
from puna.errors import FormatError, PunaError, UnsupportedModel, WeightError
from puna.gguf import GGUFFile, Metadata

pytestmark = pytest.mark.transformers

RANK = 4
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6, "bias": "none", "use_dora": False}
STEM = "base_model.model.model.layers."
# Rows and columns of what is adapted, by the modules' names in layer 1.
LLAMA = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "mlp.down_proj": (64, 96)}
MIXTRAL = {
    f"block_sparse_moe.experts.{n}.{name}": (64, 96) if name == "w2" else (96, 64)
    for n in range(6)
    for name in ("w1", "w2", "w3")
}
CASES: dict[str, tuple[Callable[[], Any], Mapping[str, tuple[int, int]]]] = {
    "llama": (lambda: hf_models.llama(1), LLAMA),
    "qwen3": (lambda: hf_models.qwen("qwen3", 1), {"self_attn.q_proj": (96, 64), "mlp.up_proj": (96, 64)}),
    "gemma2": (lambda: hf_models.gemma2(1), {"self_attn.o_proj": (64, 96)}),
    "mixtral": (lambda: hf_models.mixtral(1), MIXTRAL),
}


def adapter(modules: Mapping[str, tuple[int, int]], rank: int = RANK) -> dict[str, Any]:
    random = np.random.default_rng(7)
    tensors = {}
    for name, (rows, columns) in modules.items():
        tensors[f"{STEM}1.{name}.lora_A.weight"] = random.standard_normal((rank, columns)).astype(np.float32)
        tensors[f"{STEM}1.{name}.lora_B.weight"] = random.standard_normal((rows, rank)).astype(np.float16)
    return tensors


def write(folder: Path, tensors: Mapping[str, Any], config: Mapping[str, Any] = CONFIG) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(dict(tensors), folder / "adapter_model.safetensors")
    return {path.name: path for path in folder.iterdir()}


def metadata(path: Path) -> Metadata:
    with GGUFFile.open(path) as file:
        return file.metadata


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each case, with what is made of its adapter here and by llama.cpp."""
    root = tmp_path_factory.mktemp("adapters")
    tasks = []
    for case, (model, modules) in CASES.items():
        folder = root / case
        folder.mkdir()
        write_model(folder / "base.gguf", model())
        files = write(folder / "adapter", adapter(modules))
        convert_adapter(files, metadata(folder / "base.gguf"), folder / "ours", lambda progress: None)
        tasks.append(AdapterTask(folder / "adapter", folder / "base", folder / "theirs"))
    convert_adapters(tasks)
    return root


@pytest.mark.parametrize("case", CASES)
def test_files_are_those_of_llama_cpp(converted: Path, case: str) -> None:
    folder = converted / case
    with GGUFFile.open(folder / "ours") as ours, GGUFFile.open(folder / "theirs") as theirs:
        assert contents(ours) == contents(theirs)
        same = {key: theirs.metadata[key] for key in ours.metadata}
        assert dict(ours.metadata) == same
        assert {key for key in theirs.metadata if key not in same} <= {"general.name"}


def contents(file: GGUFFile) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    data = file.path.read_bytes()
    return {
        name: (found.type.name, found.shape, data[found.offset : found.offset + found.nbytes])
        for name, found in file.tensors.items()
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Metadata:
    """Of a tiny Llama."""
    path = tmp_path_factory.mktemp("base") / "base.gguf"
    write_model(path, hf_models.llama(1))
    return metadata(path)


def test_a_root_of_the_rank(base: Metadata, tmp_path: Path) -> None:
    """Readers divide by the rank: 12 / 4 is 6 / √4."""
    files = write(tmp_path / "adapter", adapter(LLAMA), CONFIG | {"use_rslora": True})
    convert_adapter(files, base, tmp_path / "made", lambda progress: None)
    assert metadata(tmp_path / "made")["adapter.lora.alpha"] == 12.0


Change = Callable[[dict[str, Any], dict[str, Any]], object]
BAD: dict[str, tuple[Change, type[PunaError], str]] = {
    "another method": (lambda t, c: c.update(peft_type="IA3"), UnsupportedModel, "of type 'IA3'"),
    "magnitudes": (lambda t, c: c.update(use_dora=True), UnsupportedModel, "use_dora True"),
    "biases": (lambda t, c: c.update(bias="all"), UnsupportedModel, "bias 'all'"),
    "several factors": (lambda t, c: c.update(alpha_pattern={"q": 1}), UnsupportedModel, "alpha_pattern"),
    "no factor": (lambda t, c: c.pop("lora_alpha"), FormatError, "'lora_alpha' must be a number"),
    "not a number": (lambda t, c: c.update(lora_alpha="nan"), FormatError, "'lora_alpha' must be a number"),
    "no configuration": (lambda t, c: c.clear(), FormatError, "no adapter_config.json"),
    "no tensors": (lambda t, c: t.clear(), FormatError, "has no tensors"),
    "a whole weight": (
        lambda t, c: t.update({"base_model.model.lm_head.weight": np.zeros((2, 2), np.float32)}),
        UnsupportedModel,
        "is no matrix of a low-rank pair",
    ),
    "one half": (
        lambda t, c: t.pop(f"{STEM}1.self_attn.q_proj.lora_A.weight"),
        WeightError,
        "has one of its two matrices only",
    ),
    "a layer too many": (
        lambda t, c: t.update({k.replace(".1.", ".2."): v for k, v in adapter(LLAMA).items()}),
        WeightError,
        "the model has no matrix 'layers.2.",
    ),
    "the table of tokens": (
        lambda t, c: t.update(
            {
                f"base_model.model.model.embed_tokens.lora_{half}.weight": np.zeros((4, 4), np.float32)
                for half in "AB"
            }
        ),
        WeightError,
        "the model has no matrix 'embed_tokens.weight'",
    ),
    "other ranks": (
        lambda t, c: t.update(
            {f"{STEM}1.self_attn.q_proj.lora_B.weight": np.zeros((64, RANK + 1), np.float32)}
        ),
        WeightError,
        "does not fit the model",
    ),
    "other rows": (
        lambda t, c: t.update({f"{STEM}1.self_attn.q_proj.lora_B.weight": np.zeros((63, RANK), np.float32)}),
        WeightError,
        r"does not fit the model: \(4, 64\) and \(63, 4\) for \(64, 64\)",
    ),
    "rank 0": (
        lambda t, c: t.update(adapter({"self_attn.q_proj": (64, 64)}, rank=0)),
        FormatError,
        "has the rank 0",
    ),
    "whole numbers": (
        lambda t, c: t.update({f"{STEM}1.self_attn.q_proj.lora_A.weight": np.zeros((RANK, 64), np.int32)}),
        FormatError,
        "elements of type I32",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(base: Metadata, tmp_path: Path, case: str) -> None:
    change, kind, message = BAD[case]
    tensors, config = adapter(LLAMA), dict(CONFIG)
    change(tensors, config)
    files = write(tmp_path / "adapter", tensors, config)
    with pytest.raises(kind, match=message) as caught:
        convert_adapter(files, base, tmp_path / "made", lambda progress: None)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_pickle_is_not_read(base: Metadata, tmp_path: Path) -> None:
    files = write(tmp_path / "adapter", adapter(LLAMA))
    files["adapter_model.bin"] = files.pop("adapter_model.safetensors")
    with pytest.raises(FormatError, match=r"there is no adapter_model\.safetensors"):
        convert_adapter(files, base, tmp_path / "made", lambda progress: None)
