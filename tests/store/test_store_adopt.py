"""Taking files of this disk into the store without copying them, where that can be."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.store.filled import contents, digest_of

from puna.errors import StoreError
from puna.store import blobs
from puna.store.digest import Digest
from puna.store.library import Library
from puna.store.manifests import MODEL_LAYER, Layer

CONTENT = bytes(range(256)) * 20_000  # 5 MB


def adopt(library: Library, path: Path) -> Layer:
    with library.session() as session:
        return session.adopt(MODEL_LAYER, path, from_=path.name)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A file on another file system than the store's."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        path = Path(folder) / "model.gguf"
        path.write_bytes(CONTENT)
        yield path


@pytest.fixture
def no_clones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems can share blocks, which comes before a second name."""
    monkeypatch.setattr(blobs, "_clone", lambda *_: False)


@pytest.mark.usefixtures("no_clones")
def test_a_file_of_the_same_disk_gets_a_second_name(library: Library, model: Path) -> None:
    layer = adopt(library, model)
    assert layer == Layer(MODEL_LAYER, str(digest_of(CONTENT)), len(CONTENT), from_="model.gguf")
    assert library.blobs.path(layer.content).samefile(model)
    assert model.stat().st_nlink == 2
    assert len([*library.blobs.folder.iterdir()]) == 1


@pytest.mark.usefixtures("no_clones")
def test_an_old_file_is_not_pruned_while_it_is_adopted(library: Library, model: Path) -> None:
    os.utime(model, (0, 0))

    def pruning(_: Digest) -> None:
        library.prune(3600)

    digest = library.blobs.adopt(model, pruning)
    assert library.blobs.path(digest).read_bytes() == CONTENT


def test_a_file_of_another_disk_is_copied(library: Library, elsewhere: Path) -> None:
    layer = adopt(library, elsewhere)
    assert (layer.content, layer.size) == (digest_of(CONTENT), len(CONTENT))
    elsewhere.write_bytes(b"changed")
    assert contents(library) == {CONTENT}


def test_a_link_is_followed_to_the_file(library: Library, model: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.gguf"
    link.symlink_to(model)
    assert adopt(library, link).content == digest_of(CONTENT)
    path = library.blobs.path(digest_of(CONTENT))
    assert not path.is_symlink()


def test_a_file_that_is_a_blob_already(library: Library, model: Path) -> None:
    adopt(library, model)
    layer = adopt(library, library.blobs.path(digest_of(CONTENT)))
    assert layer.content == digest_of(CONTENT)
    assert contents(library) == {CONTENT}
    assert adopt(library, model).content == layer.content
    assert len([*library.blobs.folder.iterdir()]) == 1


def test_an_adopted_file_that_is_changed_later_is_noticed(library: Library, model: Path) -> None:
    digest = adopt(library, model).content
    assert library.blobs.verified(digest)
    with model.open("r+b") as file:
        file.write(b"changed")
    if library.blobs.path(digest).samefile(model):
        assert not library.blobs.verified(digest)


@pytest.mark.parametrize("kind", ["pipe", "folder", "missing", "/dev/zero", "/proc/self/mem"])
def test_what_is_no_regular_file_is_refused(library: Library, tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(StoreError) as caught:
        adopt(library, path)
    assert str(path) in str(caught.value)
    assert not library.root.exists()


@pytest.mark.usefixtures("no_clones")
def test_a_file_that_changes_while_it_is_hashed_is_refused(
    library: Library, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hash_file = blobs._hash_file

    def hash_changed(path: Path, seen: object) -> object:
        with model.open("ab") as file:
            file.write(b"more")
        return hash_file(path)

    monkeypatch.setattr(blobs, "_hash_file", hash_changed)
    with pytest.raises(StoreError, match=r"model\.gguf was changed while it was read"):
        adopt(library, model)
    assert not library.root.exists()


@pytest.mark.parametrize("endless", [False, True])
def test_a_file_that_changes_while_it_is_copied_is_refused(
    library: Library, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, endless: bool
) -> None:
    read_chunks = blobs.read_chunks

    def changing(source: object) -> Iterator[bytes]:
        for chunk in read_chunks(source):  # type: ignore[arg-type]  # it is handed on as it came
            with elsewhere.open("ab" if endless else "r+b") as file:
                file.write(chunk)
            yield chunk

    monkeypatch.setattr(blobs, "read_chunks", changing)
    with pytest.raises(StoreError, match=r"model\.gguf was changed while it was read"):
        adopt(library, elsewhere)
    assert not library.root.exists()
