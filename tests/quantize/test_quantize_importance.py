"""Importance matrices: read as they were written, and nothing else."""

from array import array
from pathlib import Path
from typing import Any

import pytest
from tests.quantize.conftest import importance

from puna.errors import FormatError
from puna.gguf import GGMLType, GGUFWriter, TensorInfo
from puna.quantize.importance import Importance, Sums, read_importance, weights_for, write_importance

FLOATS = array("f", [1, 2, 3, 4]).tobytes()


def tensor(name: str, *shape: int) -> TensorInfo:
    return TensorInfo(name, GGMLType.F16, shape, 0, 0)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_importance(tmp_path / "i.gguf", importance())
    assert read_importance(tmp_path / "i.gguf") == importance()


def test_means_and_experts_that_saw_nothing() -> None:
    sums = Sums(array("f", [2, 4, 6, 8, 1, 1]), array("f", [2, 0, 4]))
    assert sums.means().tolist() == [1, 2, 1, 1, 0.25, 0.25]
    matrix = Importance({"a": sums, "b": Sums(array("f", [6, 9]), array("f", [3]))}, (), 0, 0)
    found = weights_for(matrix, [tensor("a", 3, 5, 2), tensor("b", 7, 2), tensor("c", 7, 2)])
    assert {name: values.tolist() for name, values in found.items()} == {
        "a": [1, 2, 1, 1, 0.25, 0.25],
        "b": [2, 3],
    }
    with pytest.raises(FormatError, match="one of another model: it has 6 numbers for 'a', whose 3 x 4 "):
        weights_for(matrix, [tensor("a", 3, 5, 4)])


def write(path: Path, values: dict[str, Any], tensors: dict[str, tuple[GGMLType, tuple[int, ...]]]) -> Path:
    with GGUFWriter(path) as writer:
        for key, value in values.items():
            writer.add(key, value)
        for name, (type_, shape) in tensors.items():
            writer.add_tensor(name, type_, shape, FLOATS[: type_.nbytes(shape)])
    return path


KIND = {"general.type": "imatrix"}
F32, F16 = GGMLType.F32, GGMLType.F16


@pytest.mark.parametrize(
    ("values", "tensors", "message"),
    [
        ({}, {}, "is no importance matrix: its general.type is ''"),
        ({"general.type": "model"}, {}, "is no importance matrix: its general.type is 'model'"),
        ({**KIND, "imatrix.chunk_count": -1}, {}, "'imatrix.chunk_count' at byte .* must be a whole number"),
        ({**KIND, "imatrix.chunk_size": "x"}, {}, "'imatrix.chunk_size' at byte .* must be a whole number"),
        ({**KIND, "imatrix.datasets": [1]}, {}, "'imatrix.datasets' at byte .* must be an array of strings"),
        (KIND, {"a.weight": (F32, (2,))}, "'a.weight' is no part of an importance matrix"),
        (KIND, {"a.in_sum2": (F32, (2,))}, "has sums but no counts for 'a'"),
        (KIND, {"a.in_sum2": (F32, (3,)), "a.counts": (F32, (2,))}, "has 3 sums and 2 counts for 'a'"),
        (KIND, {"a.in_sum2": (F32, (3,)), "a.counts": (F32, (0,))}, "has 3 sums and 0 counts for 'a'"),
        (KIND, {"a.in_sum2": (F16, (3,)), "a.counts": (F32, (1,))}, "'a.in_sum2' is F16 instead of F32"),
    ],
)
def test_files_that_are_none(
    values: dict[str, Any],
    tensors: dict[str, tuple[GGMLType, tuple[int, ...]]],
    message: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(FormatError, match=message):
        read_importance(write(tmp_path / "i.gguf", values, tensors))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("place", ["squares", "counts"])
def test_numbers_that_are_no_sums(wrong: float, place: str, tmp_path: Path) -> None:
    given = {name: array("f", [wrong if name == place else 1.0]) for name in ("squares", "counts")}
    sums = Sums(**given)
    write_importance(tmp_path / "i.gguf", Importance({"a": sums}, (), 0, 0))
    with pytest.raises(FormatError, match="the sums for 'a' are not all finite numbers from 0 up"):
        read_importance(tmp_path / "i.gguf")
