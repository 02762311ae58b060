"""Blobs and manifests on disk."""

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from puna import settings
from puna.errors import ModelNotFound, OutOfSpace, StoreError, UnsupportedModel
from puna.store.digest import Digest
from puna.store.library import Library, Removal
from puna.store.manifests import (
    ADAPTER_LAYER,
    CONFIG_TYPE,
    MODEL_LAYER,
    Layer,
    Manifest,
    image_manifest,
)
from puna.store.model import read_model
from puna.store.name import parse_name

HEX = hashlib.sha256(b"content").hexdigest()


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "models")


def layer(library: Library, content: bytes, media_type: str = MODEL_LAYER) -> Layer:
    with library.session() as session:
        return session.add(media_type, [content])


def add(library: Library, *chunks: bytes) -> Digest:
    with library.session() as session:
        return session.add(MODEL_LAYER, chunks).content


def publish(library: Library, name: str, manifest: Manifest) -> Removal:
    with library.session() as session:
        return session.publish(parse_name(name), manifest)


def weights(library: Library, name: str) -> Path:
    return read_model(library, parse_name(name)).weights(library.blobs)


def model(library: Library, content: bytes = b"content") -> Manifest:
    return image_manifest(layer(library, b"{}", CONFIG_TYPE), [layer(library, content)])


def files(folder: Path) -> list[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if path.parts[0] != ".puna")


@pytest.mark.parametrize("text", [f"sha256:{HEX}", f"sha256-{HEX}"])
def test_digests_in_both_spellings(text: str) -> None:
    digest = Digest.parse(text)
    assert (digest.hex, str(digest), digest.file_name) == (HEX, f"sha256:{HEX}", f"sha256-{HEX}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        f"sha256:{HEX[1:]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX}\n",
        f"sha256:{HEX[1:]}\x00",
        f" sha256:{HEX}",
        f"SHA256:{HEX}",
        f"sha256:{HEX.upper()}",
        "sha256:" + "１" * 64,
        f"sha512:{HEX}{HEX}",
        f"sha256/{HEX}",
        "../../../../tmp/pwn",
        "sha256:../../../tmp/pwn",
        "/tmp/pwn",
        "sha256-..%2f..%2fx",
    ],
)
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(StoreError):
        Digest.parse(text)


def test_a_blob_is_named_by_its_content(library: Library) -> None:
    digest = add(library, b"con", b"tent")
    assert digest.hex == HEX
    assert files(library.root) == [f"blobs/sha256-{HEX}"]
    assert library.blobs.read(digest, 100) == b"content"
    assert library.blobs.size(digest) == 7
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(library.blobs.path(digest).stat().st_mode) == 0o666 & ~umask


def test_a_blob_that_is_not_what_was_expected_never_gets_a_name(library: Library) -> None:
    with (
        pytest.raises(StoreError, match="digest mismatch"),
        library.session() as session,
        session.create() as writer,
    ):
        writer.write(b"other")
        writer.commit(Digest(HEX))
    assert files(library.root) == []


def test_an_interrupted_blob_leaves_nothing(library: Library) -> None:
    with pytest.raises(KeyboardInterrupt), library.session() as session, session.create() as writer:
        writer.write(b"half")
        assert writer.path.exists()
        raise KeyboardInterrupt
    assert files(library.root) == []


def test_a_good_blob_is_kept_and_a_damaged_one_replaced(library: Library) -> None:
    path = library.blobs.path(add(library, b"content"))
    inode = path.stat().st_ino
    add(library, b"content")
    assert path.stat().st_ino == inode
    path.write_bytes(b"CONTENT")
    assert not library.blobs.verify(Digest(HEX))
    add(library, b"content")
    assert path.read_bytes() == b"content"
    assert len(files(library.root)) == 1


def test_a_blob_needs_room(library: Library) -> None:
    with pytest.raises(OutOfSpace, match="free, but the model needs"):
        library.blobs.make_room(1 << 60)
    assert files(library.root) == []


def test_a_blob_longer_than_its_limit_is_not_read(library: Library) -> None:
    with pytest.raises(StoreError, match="longer than the 3 bytes"):
        library.blobs.read(add(library, b"content"), 3)


def test_a_store_in_place_of_which_there_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(StoreError, match="models"):
        add(Library(tmp_path / "models"), b"x")


def test_a_manifest_is_the_document_ollama_writes(library: Library) -> None:
    publish(library, "me/m:7b", model(library))
    path = library.root / "manifests/registry.ollama.ai/me/m/7b"
    assert path.read_bytes().endswith(b"}\n")
    assert json.loads(path.read_bytes()) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": f"sha256:{hashlib.sha256(b'{}').hexdigest()}",
            "size": 2,
        },
        "layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{HEX}", "size": 7}],
    }
    assert library.manifests.read(parse_name("me/m:7b")) == model(library)
    assert weights(library, "me/m:7b") == library.root / f"blobs/sha256-{HEX}"


def test_a_manifest_waits_for_its_blobs(library: Library) -> None:
    manifest = model(library)
    library.blobs.path(Digest(HEX)).unlink()
    with pytest.raises(StoreError, match="is not complete"):
        publish(library, "m", manifest)
    library.blobs.path(Digest(HEX)).write_bytes(b"cut")
    with pytest.raises(StoreError, match="is not complete"):
        publish(library, "m", manifest)
    assert not library.manifests.folder.exists()


def test_names_are_found_without_regard_to_case_and_keep_their_spelling(library: Library) -> None:
    publish(library, "Me/Model:7B", model(library))
    other = model(library, b"other")
    publish(library, "me/model:7b", other)
    assert files(library.manifests.folder) == ["registry.ollama.ai/Me/Model/7B"]
    assert library.manifests.read(parse_name("ME/MODEL:7b")) == other


def test_an_unknown_model(library: Library) -> None:
    with pytest.raises(ModelNotFound, match="model 'm:latest' not found"):
        weights(library, "m")
    assert not library.root.exists()


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff\xfe",
        b'{"schemaVersion":2,"mediaType":"x","config":{"mediaType":"","digest":"","size":0},"layers":[]}',
        b'{"schemaVersion":2,"mediaType":"x","config":{"mediaType":"","digest":"../../x","size":1},"layers":[]}',
        f'{{"schemaVersion":2,"mediaType":"x","config":{{"mediaType":"","digest":"sha256:{HEX}","size":-1}},'
        '"layers":[]}'.encode(),
        f'{{"schemaVersion":2,"mediaType":"x","config":{{"mediaType":"","digest":"sha256:{HEX}","size":1.5}},'
        '"layers":[]}'.encode(),
        b" " * (5 << 20),
    ],
)
def test_a_damaged_manifest_is_an_error_of_the_store(library: Library, document: bytes) -> None:
    path = library.root / "manifests/registry.ollama.ai/library/m/latest"
    path.parent.mkdir(parents=True)
    path.write_bytes(document)
    with pytest.raises(StoreError):
        library.manifests.read(parse_name("m"))


def test_unknown_fields_of_other_programs_are_passed_over(library: Library) -> None:
    publish(library, "m", model(library))
    path = library.root / "manifests/registry.ollama.ai/library/m/latest"
    path.write_bytes(json.dumps({**json.loads(path.read_bytes()), "annotations": {"a": 1}}).encode())
    assert library.manifests.read(parse_name("m")) == model(library)


def test_a_model_file_of_the_wrong_size_is_damaged(library: Library) -> None:
    publish(library, "m", model(library))
    library.blobs.path(Digest(HEX)).write_bytes(b"cut")
    with pytest.raises(StoreError, match="3 bytes long instead of 7"):
        weights(library, "m")
    library.blobs.path(Digest(HEX)).unlink()
    with pytest.raises(StoreError, match="is missing"):
        weights(library, "m")


def test_an_adapter_of_the_wrong_size_is_damaged(library: Library) -> None:
    base, adapter = model(library), layer(library, b"lora", ADAPTER_LAYER)
    publish(library, "a", image_manifest(base.config, [*base.layers, adapter]))
    found = read_model(library, parse_name("a"))
    [path] = found.adapter_files(library.blobs)
    path.write_bytes(b"cut")
    with pytest.raises(StoreError, match="3 bytes long instead of 4"):
        found.adapter_files(library.blobs)
    assert weights(library, "a").read_bytes() == b"content"


def test_a_model_without_a_gguf_file(library: Library) -> None:
    publish(library, "b", image_manifest(model(library).config, []))
    with pytest.raises(UnsupportedModel, match="no GGUF file"):
        weights(library, "b")


def test_adapters_stay_while_a_model_has_them(library: Library) -> None:
    base, adapter = model(library), layer(library, b"lora", ADAPTER_LAYER)
    for name in ("a", "b"):
        publish(library, name, image_manifest(base.config, [*base.layers, adapter]))
    path = library.blobs.path(adapter.content)
    library.delete(parse_name("a"))
    library.prune(0)
    assert path.read_bytes() == b"lora"
    library.delete(parse_name("b"))
    assert not path.exists()


def test_the_last_model_layer_counts(library: Library) -> None:
    base = model(library)
    manifest = image_manifest(base.config, [*base.layers, layer(library, b"later")])
    publish(library, "m", manifest)
    assert weights(library, "m").read_bytes() == b"later"


def test_scratch_leaves_no_trace(library: Library, tmp_path: Path) -> None:
    deep = Library(tmp_path / "a" / "b" / "models")
    with deep.scratch() as folder:
        (folder / "x").write_text("x")
        assert folder.parent.parent == deep.root
    assert not (tmp_path / "a").exists()
    with deep.scratch():
        add(deep, b"kept")
    assert len(files(deep.root)) == 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Path.home() / ".ollama" / "models"),
        ({"OLLAMA_MODELS": "/o"}, Path("/o")),
        ({"OLLAMA_MODELS": "/o", "PUNA_MODELS": " '/p' "}, Path("/p")),
        ({"OLLAMA_MODELS": "/o", "PUNA_MODELS": ""}, Path("/o")),
        ({"PUNA_MODELS": "~/m"}, Path.home() / "m"),
    ],
)
def test_where_the_store_is(
    environment: dict[str, str], expected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PUNA_MODELS", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert settings.models_path() == expected
