"""Models made with other weights: the layer, what is told, and what is left when something goes wrong."""

from array import array
from pathlib import Path

import numpy as np
import pytest
from tests.create.conftest import CHAT_TEMPLATE, TEMPLATES, Maker, tree, write_gguf

from puna.create.create import create_model
from puna.create.local import local_request
from puna.create.request import CreateRequest
from puna.errors import FormatError, Interrupted, InvalidOption, PunaError
from puna.gguf import GGMLType, GGUFFile, GGUFWriter
from puna.modelfile.parser import parse
from puna.progress import Progress, Report
from puna.quantize.importance import Importance, Sums, write_importance
from puna.store.config import decode_config
from puna.store.library import Library
from puna.store.manifests import MODEL_LAYER, SYSTEM_LAYER, Layer
from puna.store.name import ModelName, parse_name

NEW = parse_name("new")
TENSORS = {
    "token_embd.weight": (40, 256),
    "blk.0.attn_q.weight": (256, 256),
    "blk.0.ffn_down.weight": (256, 512),
}


@pytest.fixture
def model(maker: Maker) -> Path:
    """A model in F16 on this machine."""
    random = np.random.default_rng(3)
    path = maker.folder / "m.gguf"
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", "llama")
        writer.add("general.file_type", 1)
        writer.add("llama.block_count", 1)
        writer.add("tokenizer.chat_template", CHAT_TEMPLATE)
        for name, shape in TENSORS.items():
            values = random.standard_normal(shape).astype(np.float16)
            writer.add_tensor(name, GGMLType.F16, shape, values)
    return path


@pytest.fixture
def imatrix(maker: Maker) -> Path:
    path = maker.folder / "i.gguf"
    sums = Sums(array("f", range(1, 257)), array("f", [2]))
    write_importance(path, Importance({"blk.0.attn_q.weight": sums}, ("text",), 1, 512))
    return path


def layer_of(library: Library) -> Layer:
    (layer,) = library.manifests.read(NEW).all(MODEL_LAYER)
    return layer


def assert_only_used_blobs(library: Library, *names: str) -> None:
    manifests = [library.manifests.read(parse_name(name)) for name in names]
    assert {*library.blobs} == {layer.content for manifest in manifests for layer in manifest.blobs}


def made(library: Library) -> tuple[str, dict[str, str]]:
    """What the config says of the weights, and the types that they have."""
    manifest = library.manifests.read(NEW)
    config = decode_config(library.blobs.path(manifest.config.content).read_bytes())
    with GGUFFile.open(library.blobs.path(layer_of(library).content)) as file:
        return config.file_type, {name: tensor.type.name for name, tensor in file.tensors.items()}


def test_from_a_file(maker: Maker, model: Path) -> None:
    statuses = maker.local("FROM m.gguf\nSYSTEM be kind", quantize="q4_k_m")
    assert made(maker.library) == (
        "Q4_K_M",
        {"token_embd.weight": "Q6_K", "blk.0.attn_q.weight": "Q4_K", "blk.0.ffn_down.weight": "Q6_K"},
    )
    layer = layer_of(maker.library)
    assert layer.from_ == "m.gguf"
    quantizing = "quantizing F16 model to Q4_K_M"
    assert list(dict.fromkeys(statuses))[:4] == [
        "gathering model components",
        "parsing GGUF",
        quantizing,
        f"creating new layer {layer.digest}",
    ]
    total = sum(2 * rows * columns for rows, columns in TENSORS.values())
    steps = [step for step in maker.told if step.status == quantizing]
    assert steps[-1] == Progress(quantizing, total, total, "0000000000000000000")
    assert maker.blob("new", SYSTEM_LAYER) == b"be kind"
    # The file that the weights came from is no part of the store.
    assert_only_used_blobs(maker.library, "new")


def test_from_a_model(maker: Maker, model: Path) -> None:
    maker.local("FROM m.gguf\nSYSTEM be kind", "base")
    maker.create(CreateRequest(name=NEW, from_=parse_name("base"), quantize="Q8_0"))
    assert made(maker.library)[0] == "Q8_0"
    assert layer_of(maker.library).from_ == "base:latest"
    assert maker.blob("new", SYSTEM_LAYER) == b"be kind"
    kept = maker.library.manifests.read(parse_name("base")).first(MODEL_LAYER)
    assert kept is not None and maker.library.blobs.path(kept.content).read_bytes() == model.read_bytes()


def test_the_type_that_it_has(maker: Maker, model: Path) -> None:
    statuses = maker.local("FROM m.gguf", quantize="f16")
    assert "using autodetected template chatml" in statuses
    assert maker.blob("new", MODEL_LAYER) == model.read_bytes()


def test_by_an_importance_matrix(maker: Maker, model: Path, imatrix: Path) -> None:
    maker.local("FROM m.gguf", "plain", quantize="q4_0")
    with local_request(
        parse("FROM m.gguf"),
        NEW,
        maker.folder,
        maker.library,
        maker.told.append,
        quantize="q4_0",
        imatrix=imatrix,
    ) as request:
        assert [*request.imatrix] == ["i.gguf"]
        maker.create(request)
    with GGUFFile.open(maker.library.blobs.path(layer_of(maker.library).content)) as file:
        assert file.metadata["quantize.imatrix.file"] == "i.gguf"
    assert_only_used_blobs(maker.library, "plain", "new")


def refused(maker: Maker, kind: type[PunaError], message: str, request: CreateRequest) -> None:
    before = tree(maker.library.root)
    with pytest.raises(kind, match=message):
        maker.create(request)
    assert tree(maker.library.root) == before
    assert not [*maker.library.root.glob(".puna/scratch-*")]


def test_weights_that_are_no_numbers(maker: Maker, model: Path) -> None:
    with GGUFFile.open(model) as file:
        offset = file.tensors["blk.0.attn_q.weight"].offset
    with model.open("r+b") as file_:
        file_.seek(offset)
        file_.write(b"\x00\x7e")
    request = CreateRequest(name=NEW, files={"m.gguf": maker.add(model)}, quantize="Q4_0")
    refused(
        maker,
        FormatError,
        r"^tensor 'blk\.0\.attn_q\.weight' holds numbers that are infinite or none",
        request,
    )


def test_a_matrix_that_does_not_belong_to_the_model(maker: Maker, model: Path) -> None:
    other = write_gguf(maker.folder / "other.gguf", {"general.type": "model"})
    digest = maker.add(model)
    message = "^'other.gguf' is no importance matrix: its general.type does not say so$"
    request = CreateRequest(
        name=NEW, files={"m.gguf": digest}, quantize="Q4_0", imatrix={"a/other.gguf": maker.add(other)}
    )
    refused(maker, FormatError, message, request)
    damaged = write_gguf(maker.folder / "damaged.gguf", {"general.type": "imatrix"})
    request = CreateRequest(
        name=NEW, files={"m.gguf": digest}, quantize="Q4_0", imatrix={"x.gguf": maker.add(damaged)}
    )
    refused(
        maker, FormatError, r"^'x.gguf': 'token_embd.weight' is no part of an importance matrix$", request
    )


def test_a_matrix_without_a_type(maker: Maker, model: Path) -> None:
    digest = maker.add(model)
    with pytest.raises(InvalidOption, match="of use for quantizing only"):
        CreateRequest(name=NEW, files={"m.gguf": digest}, imatrix={"i.gguf": digest})
    with pytest.raises(InvalidOption, match="only one importance matrix"):
        CreateRequest(name=NEW, files={"m.gguf": digest}, quantize="Q4_0", imatrix={"i": digest, "j": digest})


def no_pull(name: ModelName, report: Report) -> None:
    raise AssertionError(name)


def test_a_creation_that_is_cancelled(maker: Maker, model: Path) -> None:
    def stop(step: Progress) -> None:
        if step.status.startswith("quantizing") and step.completed:
            raise Interrupted("enough")

    request = CreateRequest(name=NEW, files={"m.gguf": maker.add(model)}, quantize="Q4_0")
    before = tree(maker.library.root)
    with pytest.raises(Interrupted):
        create_model(request, maker.library, stop, pull=no_pull, templates=TEMPLATES)
    assert tree(maker.library.root) == before
