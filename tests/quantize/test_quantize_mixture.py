"""Which type each tensor gets, against what llama.cpp's quantizer says for many architectures."""

import json
from pathlib import Path

import pytest
from tests.quantize import oracle
from tests.quantize.architectures import CASES, VOCABULARY, WIDTH, Case, write_case

from puna.errors import FormatError, GGUFError, InvalidOption
from puna.gguf import GGMLType, GGUFFile, TensorInfo
from puna.quantize.filetypes import NAMES, file_type
from puna.quantize.mixture import Model, model_of, tensor_types
from puna.quantize.plan import plan_of

KINDS = (*((name, False) for name in NAMES), *((name, True) for name in oracle.WEIGHTED))
DENSE = Model("llama", 4, 0, 1, False)


def types_of(path: Path, kind: str, *, weighted: bool = False) -> dict[str, str]:
    with GGUFFile.open(path) as file:
        model = model_of(file.metadata)
        types = tensor_types(model, file.tensors.values(), file_type(kind), weighted=weighted)
    return {name: type_.name for name, type_ in types.items()}


@pytest.mark.parametrize("name", CASES)
def test_the_types_are_llama_cpps(name: str, tmp_path: Path) -> None:
    recorded = json.loads(oracle.RECORDED.read_text())[name]
    path = write_case(tmp_path / "model.gguf", CASES[name])
    assert [*recorded] == [kind + " weighted" * weighted for kind, weighted in KINDS]
    for kind, weighted in KINDS:
        found = oracle.mixture(types_of(path, kind, weighted=weighted))
        assert found == recorded[kind + " weighted" * weighted], kind


@pytest.mark.skipif(oracle.tool("llama-quantize") is None, reason="bench/build_llama_cpp.py builds it")
@pytest.mark.parametrize("name", CASES)
def test_the_types_and_their_order_are_those_of_the_llama_cpp_that_is_here(name: str, tmp_path: Path) -> None:
    path = write_case(tmp_path / "model.gguf", CASES[name])
    for kind in ("Q4_K_M", "Q3_K_M", "IQ4_XS"):
        theirs, ours = oracle.tensor_types(path, kind), types_of(path, kind)
        assert [*ours.items()] == [*theirs.items()]


def test_encoders_of_images_stay_as_they_are_and_are_not_counted() -> None:
    case = CASES["qwen3"]
    plain = [TensorInfo(name, GGMLType.F16, shape, 0, 0) for name, shape in case.tensors()]
    tower = [
        TensorInfo(name, GGMLType.F16, (256, 256), 0, 0)
        for name in ("v.blk.0.attn_v.weight", "mm.0.weight", "a.blk.1.ffn_down.weight")
    ]
    model = Model("qwen3", case.blocks, 0, 2, False)
    alone = tensor_types(model, plain, file_type("Q4_K_M"))
    together = tensor_types(model, [*tower, *plain], file_type("Q4_K_M"))
    assert together == alone | {tensor.name: GGMLType.F16 for tensor in tower}


def test_a_matrix_of_one_row_is_a_vector() -> None:
    row = TensorInfo("blk.0.ffn_gate_inp_shexp.weight", GGMLType.F32, (1, 256), 0, 0)
    assert tensor_types(DENSE, [row], file_type("Q8_0")) == {row.name: GGMLType.F32}


@pytest.mark.parametrize("name", ["ffn_down_exps.weight", "blk.9.ffn_down_exps.weight"])
def test_an_experts_matrix_outside_of_the_blocks(name: str) -> None:
    tensor = TensorInfo(name, GGMLType.F16, (4, 256, 256), 0, 0)
    with pytest.raises(FormatError, match=f"tensor '{name}' belongs to none of the model's 4 blocks"):
        tensor_types(Model("llama", 4, 4, 1, False), [tensor], file_type("Q4_K_M"))


def test_names() -> None:
    assert file_type("q4_k") is file_type("Q4_K_M")
    assert (file_type("Iq4_nL").number, file_type("bf16").type) == (25, GGMLType.BF16)
    with pytest.raises(
        InvalidOption, match=r"^unsupported quantization type IQ1_S - supported types are F32"
    ):
        file_type("IQ1_S")


def test_plans(tmp_path: Path) -> None:
    path = write_case(tmp_path / "model.gguf", CASES["qwen3"])
    with GGUFFile.open(path) as file:
        plan = plan_of(file, file_type("Q8_0"), weighted=False)
        assert plan.read == sum(tensor.nbytes for tensor in file.tensors.values())
        assert VOCABULARY * WIDTH < plan.written < path.stat().st_size * 0.6
        with pytest.raises(InvalidOption, match=r"^Q2_K_S needs an importance matrix: without one, 'blk\.0"):
            plan_of(file, file_type("Q2_K_S"), weighted=False)
        assert plan_of(file, file_type("Q2_K_S"), weighted=True).types["blk.3.attn_q.weight"] == GGMLType.Q2_K


def test_a_file_without_what_decides(tmp_path: Path) -> None:
    path = write_case(tmp_path / "model.gguf", Case("llama", 1, {}, {"block_count": "many"}))
    with GGUFFile.open(path) as file, pytest.raises(GGUFError, match="block_count"):
        plan_of(file, file_type("Q8_0"), weighted=False)
