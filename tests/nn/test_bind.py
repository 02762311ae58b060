"""Binding is strict both ways, and says in one sentence what is wrong."""

from pathlib import Path

import pytest
from tests.nn.files import random, write

from puna.errors import WeightError
from puna.gguf import GGUFFile
from puna.ml import BackendParams, new_backend
from puna.ml.backends.reference.backend import ReferenceBackend
from puna.ml.backends.reference.tensor import ReferenceTensor
from puna.ml.nn import Embedding, Linear, Module, Projections, RMSNorm, Weight, bind


class Layer(Module):
    def __init__(self, index: int) -> None:
        self.scope = f"blk.{index}"
        self.qkv = Projections(("q", "k"), 8, (8, 4))
        self.output = Linear("attn_output|attn_out", 8, 8)
        self.extra = Weight("extra", (2, None), optional=True)


class Model(Module):
    def __init__(self) -> None:
        self.embedding = Embedding("token_embd", None, 8)
        self.layers = [Layer(index) for index in range(2)]
        self.norm = RMSNorm("norm", 8, 1e-5)
        self.output = Linear("output|token_embd", 8, None)


SHAPES: dict[str, tuple[int, ...]] = {
    "token_embd.weight": (10, 8),
    "norm.weight": (8,),
    "blk.0.q.weight": (8, 8),
    "blk.0.k.weight": (4, 8),
    "blk.0.attn_output.weight": (8, 8),
    "blk.1.q.weight": (8, 8),
    "blk.1.k.weight": (4, 8),
    "blk.1.attn_out.weight": (8, 8),
    "blk.1.extra": (2, 7),
}


def _bind(
    path: Path,
    changes: dict[str, tuple[int, ...] | None],
    *,
    ignored: tuple[str, ...] = (),
    fuse: bool = True,
) -> Model:
    """Binds the model to a file of SHAPES with some tensors changed or, if None, left out."""
    shapes = {name: shape for name, shape in (SHAPES | changes).items() if shape is not None}
    write(path / "model.gguf", {name: random(*shape) for name, shape in shapes.items()})
    model = Model()
    with new_backend(path / "model.gguf", BackendParams(fuse=fuse), name="reference") as backend:
        bind(model, backend, ignored)
    return model


def test_everything_finds_its_place(tmp_path: Path) -> None:
    model = _bind(tmp_path, {})
    assert model.layers[0].output.weight.tensor.shape == (8, 8)
    assert model.layers[0].extra.maybe is None
    assert model.layers[1].extra.tensor.shape == (2, 7)
    assert model.output.weight.tensor.shape == model.embedding.weight.tensor.shape == (10, 8)
    fused = model.layers[0].qkv.weights.fused
    assert fused is not None and fused.shape == (12, 8)


def test_the_preferred_name_wins(tmp_path: Path) -> None:
    assert _bind(tmp_path, {"output.weight": (9, 8)}).output.weight.tensor.shape == (9, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"norm.weight": None, "blk.1.attn_out.weight": None},
            "the file does not fit the model: it lacks blk.1.attn_output.weight, norm.weight",
        ),
        ({"blk.0.k.weight": None}, "the file does not fit the model: it lacks blk.0.k.weight"),
        ({"norm.weight": (9,)}, "the file does not fit the model: norm.weight is 9 instead of 8"),
        (
            {"blk.1.extra": (3, 7)},
            "the file does not fit the model: blk.1.extra is 3 × 7 instead of 2 × any",
        ),
        ({"norm.weight": (8, 1)}, "the file does not fit the model: norm.weight is 8 × 1 instead of 8"),
        (
            {"a": (1,), "blk.2.q.weight": (8, 8)},
            "the file does not fit the model: nothing uses a, blk.2.q.weight",
        ),
        (
            {f"x{n}": (1,) for n in range(8)},
            "the file does not fit the model: nothing uses x0, x1, x2, x3, x4 and 3 more",
        ),
        (
            {"norm.weight": None, "blk.0.attn_output.weight": (8, 9), "y": (1,)},
            "the file does not fit the model: it lacks norm.weight; "
            "blk.0.attn_output.weight is 8 × 9 instead of 8 × 8; nothing uses y",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, changes: dict[str, tuple[int, ...] | None], message: str
) -> None:
    with pytest.raises(WeightError) as caught:
        _bind(tmp_path, changes)
    assert str(caught.value) == message


def test_fused_weights_are_checked_as_one(tmp_path: Path) -> None:
    changes: dict[str, tuple[int, ...] | None] = {"blk.0.k.weight": (5, 8)}
    with pytest.raises(WeightError, match=r"blk\.0\.q\.weight \+ blk\.0\.k\.weight is 13 × 8 instead of 12"):
        _bind(tmp_path, changes)
    with pytest.raises(WeightError, match=r": blk\.0\.k\.weight is 5 × 8 instead of 4 × 8$"):
        _bind(tmp_path, changes, fuse=False)


def test_tensors_that_are_knowingly_ignored(tmp_path: Path) -> None:
    _bind(tmp_path, {"v.blk.0.q": (1,), "mm.x": (1,)}, ignored=("v.*", "mm.*"))
    with pytest.raises(WeightError, match=r"nothing uses mm\.x$"):
        _bind(tmp_path, {"v.blk.0.q": (1,), "mm.x": (1,)}, ignored=("v.*",))


class RecordingBackend(ReferenceBackend):
    """Remembers in which role each weight was asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__(GGUFFile.open(path), BackendParams())
        self.asked: list[tuple[str, bool]] = []

    def get(self, name: str, *, rows: bool = False) -> ReferenceTensor | None:
        self.asked.append((name, rows))
        return super().get(name, rows=rows)


def test_a_shared_table_is_asked_for_in_both_roles(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", {name: random(*shape) for name, shape in SHAPES.items()})
    with RecordingBackend(tmp_path / "model.gguf") as backend:
        bind(Model(), backend)
        assert [entry for entry in backend.asked if entry[0] == "token_embd.weight"] == [
            ("token_embd.weight", True),
            ("token_embd.weight", False),
        ]
        # Members of a group that is stored as one are not asked for: the backend would keep them twice.
        assert not {"blk.0.q.weight", "blk.0.k.weight"} & {name for name, _ in backend.asked}


def test_a_weight_that_was_not_bound() -> None:
    with pytest.raises(WeightError, match=r"norm\.weight is used but was not bound"):
        _ = Model().norm.weight.tensor
