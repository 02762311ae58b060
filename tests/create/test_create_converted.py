"""Models made from safetensors: of a Modelfile's folder, of a request's files, and adapters for them."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.convert.tiny_llama_folder import HIDDEN, LlamaFolder
from tests.create.conftest import CHAT_TEMPLATE, Maker, refused_locally, tree, write_gguf

from puna.create.request import CreateRequest
from puna.errors import FormatError, InvalidOption, ModelfileError, PunaError, StoreError, WeightError
from puna.gguf import GGUFFile
from puna.progress import Progress
from puna.store.digest import Digest
from puna.store.manifests import ADAPTER_LAYER, MODEL_LAYER, PARAMETERS_LAYER, TEMPLATE_LAYER
from puna.store.model import read_model
from puna.store.name import parse_name

GENERATION = {"temperature": 0.6, "top_k": 20}
MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


def folder(maker: Maker, name: str = "d", **files: bytes) -> Path:
    made = LlamaFolder()
    made.files |= {"generation_config.json": json.dumps(GENERATION).encode()}
    made.files |= {"tokenizer_config.json": json.dumps({"chat_template": CHAT_TEMPLATE}).encode()}
    return made.write(maker.folder / name)


def adapter_folder(maker: Maker, columns: int = HIDDEN) -> Path:
    path = maker.folder / "lora"
    path.mkdir(exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 4}))
    halves = {"A": (2, columns), "B": (HIDDEN, 2)}
    tensors = {f"{MODULE}.lora_{half}.weight": np.ones(shape, np.float32) for half, shape in halves.items()}
    save_file(tensors, path / "adapter_model.safetensors")
    return path


def uploaded(maker: Maker, path: Path) -> dict[str, Digest]:
    return {file.name: maker.add(file) for file in path.iterdir()}


def gguf(maker: Maker, name: str, media_type: str = MODEL_LAYER) -> GGUFFile:
    layer = maker.library.manifests.read(parse_name(name)).first(media_type)
    assert layer is not None
    return GGUFFile.open(maker.library.blobs.path(layer.content))


def test_a_folder(maker: Maker) -> None:
    folder(maker)
    statuses = maker.local("FROM ./d\nPARAMETER top_k 40\nSYSTEM be kind")
    made = read_model(maker.library, parse_name("new"))
    assert (made.config.model_family, made.config.file_type, made.system) == ("llama", "F32", "be kind")
    parameters = {"stop": ["<|im_end|>", "<b>"], "temperature": 0.6, "top_k": 40}
    assert json.loads(maker.blob("new", PARAMETERS_LAYER) or b"") == parameters
    assert maker.blob("new", TEMPLATE_LAYER) == b"{{ .Prompt }} in chatml"
    assert statuses[0] == "gathering model components"
    assert [*dict.fromkeys(statuses)][1:3] == ["converting model", "verifying conversion"]
    assert statuses[-1] == "success"
    # The model, its template, system prompt, parameters and config; nothing of what it was made from.
    assert len([*maker.library.blobs]) == 5
    with gguf(maker, "new") as file:
        assert file.metadata["tokenizer.chat_template"] == CHAT_TEMPLATE


def test_a_folder_without_a_modelfile_and_again(maker: Maker) -> None:
    """The same files become the same blob."""
    path = folder(maker)
    maker.folder = path
    maker.local("FROM .", "one")
    maker.local("FROM .", "two")
    first, second = (maker.library.manifests.read(parse_name(name)) for name in ("one", "two"))
    assert first.first(MODEL_LAYER) == second.first(MODEL_LAYER)
    assert path.joinpath("model.safetensors").exists()


def test_a_request(maker: Maker) -> None:
    path = folder(maker)
    files = uploaded(maker, path) | {"README.md": maker.add(write_gguf(maker.folder / "any"))}
    maker.create(CreateRequest(parse_name("new"), files=files, parameters={"num_ctx": 64}))
    assert json.loads(maker.blob("new", PARAMETERS_LAYER) or b"")["num_ctx"] == 64
    with gguf(maker, "new") as file:
        assert len(file.tensors) == 21
    layer = maker.library.manifests.read(parse_name("new")).first(MODEL_LAYER)
    assert layer is not None and layer.from_ == "model.safetensors"


def test_numbered_parts_and_a_projector(maker: Maker) -> None:
    made, path = LlamaFolder(), folder(maker)
    (path / "model.safetensors").unlink()
    names = [*made.tensors]
    for number, part in enumerate((names[:9], names[9:]), 1):
        save_file(
            {name: made.tensors[name] for name in part}, path / f"model-0000{number}-of-00002.safetensors"
        )
    write_gguf(maker.folder / "p.gguf", architecture="clip")
    maker.local("FROM d\nFROM p.gguf")
    assert len(read_model(maker.library, parse_name("new")).projectors) == 1


def test_an_adapter(maker: Maker) -> None:
    folder(maker)
    adapter_folder(maker)
    statuses = maker.local("FROM ./d\nADAPTER ./lora", "both")
    assert "converting adapter" in statuses
    maker.local("FROM ./d", "base")
    maker.local("FROM base\nADAPTER ./lora", "derived")
    files = uploaded(maker, maker.folder / "lora")
    maker.create(CreateRequest(parse_name("asked"), from_=parse_name("base"), adapters=files))
    for name in ("both", "derived", "asked"):
        assert len(read_model(maker.library, parse_name(name)).adapters) == 1
        with gguf(maker, name, ADAPTER_LAYER) as file:
            assert [*file.tensors] == ["blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"]
            assert file.metadata["adapter.lora.alpha"] == 4.0


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("FROM d/model.safetensors", ModelfileError, "needs the files beside it; name the folder"),
        ("FROM d\nADAPTER lora/adapter_model.safetensors", ModelfileError, "^line 2, column 9: .*needs the"),
        ("FROM lora", ModelfileError, "'adapter_model.safetensors' cannot be converted"),
        ("FROM d\nADAPTER d", ModelfileError, "'model.safetensors' cannot be converted"),
        ("FROM d\nFROM e", FormatError, "'model.safetensors' cannot be converted|are two models"),
        ("FROM d\nFROM m.gguf", FormatError, "are two models"),
        ("FROM d\nADAPTER wide", WeightError, "does not fit the model"),
        ("FROM d\nADAPTER lora\nADAPTER l.gguf", InvalidOption, "^only one adapter"),
    ],
)
def test_what_does_not_go_together(maker: Maker, text: str, kind: type[PunaError], message: str) -> None:
    folder(maker)
    folder(maker, "e")
    adapter_folder(maker, HIDDEN + 1).rename(maker.folder / "wide")
    adapter_folder(maker)
    write_gguf(maker.folder / "m.gguf")
    write_gguf(maker.folder / "l.gguf", {"general.type": "adapter"})
    refused_locally(maker, text, kind, message)


def test_links_out_of_the_folder(maker: Maker, tmp_path: Path) -> None:
    path = folder(maker)
    (path / "config.json").rename(tmp_path / "outside.json")
    (path / "config.json").symlink_to(tmp_path / "outside.json")
    refused_locally(maker, "FROM d", ModelfileError, "^line 1, column 6: insecure path: config.json$")


def test_pipes_in_the_folder(maker: Maker) -> None:
    path = folder(maker)
    (path / "tokenizer.json").unlink()
    os.mkfifo(path / "tokenizer.json")
    refused_locally(maker, "FROM d", PunaError, "tokenizer.json|regular")


def test_pickles_beside_safetensors_are_left_alone(maker: Maker) -> None:
    path = folder(maker)
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04never read")
    (path / "training_args.bin").write_bytes(b"\x80\x04never read")
    maker.local("FROM d")


def test_an_interruption_leaves_the_store_as_it_was(maker: Maker) -> None:
    folder(maker)
    write_gguf(maker.folder / "m.gguf")
    maker.local("FROM m.gguf", "kept")
    before = tree(maker.library.root)
    told = maker.told

    class Interrupting(list[Progress]):
        def append(self, progress: Progress) -> None:
            if progress.status == "converting model":
                raise KeyboardInterrupt

    maker.told = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        maker.local("FROM d")
    assert tree(maker.library.root) == before
    maker.told = told
    maker.local("FROM d")


def test_a_disk_that_fills_up(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(maker)
    write_gguf(maker.folder / "m.gguf")
    maker.local("FROM m.gguf", "kept")
    before = tree(maker.library.root)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files = uploaded_names(maker)
    monkeypatch.setattr("puna.gguf.writer.os.fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        maker.local("FROM d")
    monkeypatch.undo()
    assert tree(maker.library.root) == before
    assert uploaded_names(maker) == files


def uploaded_names(maker: Maker) -> list[Any]:
    return sorted(path.name for path in (maker.folder / "d").iterdir())
