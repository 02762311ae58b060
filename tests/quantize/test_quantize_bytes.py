"""Quantized files to the byte, against llama.cpp's quantizer, the gguf package, and ggml by itself."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.quantize import oracle
from tests.quantize.conftest import SHAPES, importance, random_tensors, stored, write_model

import gguf
from puna import ggml
from puna.errors import FormatError
from puna.ggml.quantizing import quantized
from puna.gguf import GGMLType, GGUFFile
from puna.quantize.filetypes import NAMES, file_type
from puna.quantize.importance import read_importance, write_importance
from puna.quantize.plan import plan_of
from puna.quantize.rewriting import NamedImportance, rewrite

SOURCES = {"F32": (GGMLType.F32, 0), "F16": (GGMLType.F16, 1), "BF16": (GGMLType.BF16, 32)}
PLAIN = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
with_llama_cpp = pytest.mark.skipif(
    oracle.tool("llama-quantize") is None, reason="bench/build_llama_cpp.py builds it"
)


def make(source: Path, target: Path, kind: str, imatrix: Path | None = None) -> list[int]:
    """Quantize in this process; how many bytes were read after each piece."""
    seen: list[int] = []
    named = NamedImportance(str(imatrix), read_importance(imatrix)) if imatrix else None
    with GGUFFile.open(source) as file:
        plan = plan_of(file, file_type(kind), weighted=named is not None)
        rewrite(file, target, plan, ggml.load(), seen.append, named)
    assert seen[-1] == plan.read
    # What is noted of an importance matrix comes on top.
    assert plan.written <= target.stat().st_size <= plan.written + 1024
    return seen


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@with_llama_cpp
@pytest.mark.parametrize("source", SOURCES)
def test_files_are_llama_cpps_to_the_byte(source: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", *SOURCES[source])
    for kind in NAMES:
        if kind == "Q2_K_S":
            continue
        oracle.run("llama-quantize", path, tmp_path / "theirs", kind)
        make(path, tmp_path / "ours", kind)
        assert digest(tmp_path / "ours") == digest(tmp_path / "theirs"), kind


@with_llama_cpp
def test_files_by_an_importance_matrix_are_llama_cpps_to_the_byte(model: Path, tmp_path: Path) -> None:
    imatrix = tmp_path / "imatrix.gguf"
    write_importance(imatrix, importance())
    for kind in NAMES:
        oracle.run("llama-quantize", "--imatrix", imatrix, model, tmp_path / "theirs", kind)
        make(model, tmp_path / "ours", kind, imatrix)
        assert digest(tmp_path / "ours") == digest(tmp_path / "theirs"), kind


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("source", SOURCES)
def test_simple_types_are_what_ggufs_own_python_makes(source: str, kind: str, tmp_path: Path) -> None:
    type_, number = SOURCES[source]
    path = write_model(tmp_path / "model.gguf", type_, number)
    make(path, tmp_path / "ours", kind)
    with GGUFFile.open(tmp_path / "ours") as file:
        for name, values in random_tensors().items():
            found = file.tensors[name].type
            if values.ndim < 2 or found.name not in PLAIN:
                continue
            read = stored(values, type_ if "gate_inp" not in name else found)
            expected = gguf.quants.quantize(
                _floats(read, type_ if "gate_inp" not in name else found).reshape(values.shape),
                gguf.GGMLQuantizationType[found.name],
            )
            assert bytes(file.tensor_bytes(name)) == expected.tobytes(), name


def _floats(content: bytes, type_: GGMLType) -> Any:
    if type_ is GGMLType.BF16:
        return (np.frombuffer(content, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(content, np.float16 if type_ is GGMLType.F16 else np.float32).astype(np.float32)


@pytest.mark.parametrize("kind", [name for name in NAMES if name not in (*PLAIN, "Q2_K_S")])
def test_other_types_are_what_ggml_makes_of_a_whole_matrix(kind: str, model: Path, tmp_path: Path) -> None:
    make(model, tmp_path / "ours", kind)
    tensors, changed = random_tensors(), set()
    with GGUFFile.open(tmp_path / "ours") as file:
        for name, shape in SHAPES.items():
            type_ = file.tensors[name].type
            if not type_.is_quantized:
                continue
            changed.add(type_)
            halves = tensors[name].astype(np.float16).astype(np.float32)
            expected = quantized(
                ggml.load(), type_, bytearray(halves.tobytes()), shape[-1], type_.nbytes(shape)
            )
            assert bytes(file.tensor_bytes(name)) == expected, name
    assert len(changed) >= 2


def test_what_a_file_says_of_itself(model: Path, tmp_path: Path) -> None:
    make(model, tmp_path / "ours", "Q4_K_M")
    with GGUFFile.open(model) as old, GGUFFile.open(tmp_path / "ours") as new:
        changed = {"general.quantization_version": 2, "general.file_type": 15}
        assert dict(new.metadata) == {**dict(old.metadata), **changed}
        assert [*new.tensors][:3] == ["output.weight", "output_norm.weight", "token_embd.weight"]
        assert sorted(new.tensors) == sorted(old.tensors)


def test_progress_is_told_in_small_steps(model: Path, tmp_path: Path) -> None:
    seen = make(model, tmp_path / "ours", "Q8_0")
    steps = [after - before for before, after in zip([0, *seen], seen, strict=False)]
    assert min(steps) >= 0
    assert max(steps) <= 2 << 16


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 70000.0])
def test_numbers_that_are_none_or_too_large(wrong: float, tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", GGMLType.F32, 0)
    with GGUFFile.open(path) as file:
        offset = file.tensors["blk.1.attn_v.weight"].offset
    with path.open("r+b") as content:
        content.seek(offset + 400)
        content.write(np.float32(wrong).tobytes())
    with pytest.raises(FormatError, match=r"tensor 'blk\.1\.attn_v\.weight' holds numbers that are"):
        make(path, tmp_path / "ours", "F16")
    assert not (tmp_path / "ours").exists()


def test_a_file_that_ends_too_early(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(model.read_bytes())
    with GGUFFile.open(path) as file:
        plan = plan_of(file, file_type("Q8_0"), weighted=False)
        with path.open("r+b") as content:
            content.truncate(file.size - 1000)
        with pytest.raises(FormatError, match="it has changed meanwhile"):
            rewrite(file, tmp_path / "ours", plan, ggml.load(), lambda done: None)
    assert [*tmp_path.iterdir()] == [path]
