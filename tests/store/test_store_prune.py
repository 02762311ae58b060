"""What pruning deletes, and what it leaves alone."""

import fcntl
import os
import time
from pathlib import Path
from typing import IO

import pytest
from tests.store.filled import CONFIG, DAMAGED, add, contents, digest_of, manifest_path, publish

from puna.store import blobs
from puna.store.library import Library, Removal
from puna.store.locks import try_lock

HEX = digest_of(b"content").hex
HOUR = 3600


def age(path: Path, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


def among_blobs(library: Library, name: str, size: int = 10) -> Path:
    library.blobs.folder.mkdir(parents=True, exist_ok=True)
    path = library.blobs.folder / name
    path.write_bytes(bytes(size))
    return path


def test_blobs_younger_than_the_grace_stay(library: Library) -> None:
    old, young = add(library, b"old"), add(library, b"young")
    age(library.blobs.path(old), 2 * HOUR)
    age(library.blobs.path(young), HOUR / 2)
    assert library.prune(3 * HOUR) == Removal()
    assert library.prune(HOUR) == Removal(1, len(b"old"))
    assert contents(library) == {b"young"}


@pytest.mark.parametrize(
    "name",
    [
        f"sha256-{HEX}-partial",
        f"sha256-{HEX}-partial-0",
        f"sha256-{HEX}-partial-63",
        "sha256-3141592653",
        f"sha256-{HEX}.tmp",
        f"sha256-{HEX}.partial",
        f"sha256-{HEX}.partial.journal",
        "sha256-0123456789abcdef.tmp",
    ],
)
def test_remains_of_interrupted_operations_go(library: Library, name: str) -> None:
    path = among_blobs(library, name)
    assert library.prune(HOUR) == Removal()
    age(path, 2 * HOUR)
    assert library.prune(HOUR) == Removal(0, 10, 1)
    assert not path.exists()


@pytest.mark.parametrize(
    "name",
    [
        "README",
        ".hidden",
        "model.gguf",
        f"sha256-{HEX}.bak",
        f"sha256-{HEX}-partial-",
        f"sha256-{HEX}-partial-x",
        f"sha256-{HEX[1:]}-partial",
        f"sha256-{HEX}.partial.journal.old",
        f"sha256-{HEX[1:]}",
        f"sha256:{HEX}",
        f"sha256-{HEX.upper()}",
        "sha256-partial",
        "sha256-",
        "x.tmp",
    ],
)
def test_unknown_files_are_never_touched(library: Library, name: str) -> None:
    path = among_blobs(library, name)
    assert library.prune(0) == Removal()
    assert path.read_bytes() == bytes(10)


def test_folders_and_links_named_like_remains_are_not_touched(library: Library, tmp_path: Path) -> None:
    folder = library.blobs.folder / f"sha256-{HEX}.tmp"
    folder.mkdir(parents=True)
    (folder / "mine").write_text("mine")
    link = library.blobs.folder / f"sha256-{HEX}-partial"
    link.symlink_to(tmp_path / "nowhere")
    os.mkfifo(library.blobs.folder / f"sha256-{HEX}.partial")
    assert library.prune(0) == Removal()
    assert (folder / "mine").exists() and link.is_symlink()


def test_a_file_that_somebody_holds_a_lock_on_stays_with_its_journal(library: Library) -> None:
    path = among_blobs(library, f"sha256-{HEX}.partial")
    journal = among_blobs(library, f"sha256-{HEX}.partial.journal")
    unfinished = among_blobs(library, f"sha256-{HEX}.partial.tmp")
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert library.prune(0) == Removal()
    assert library.prune(0) == Removal(0, 30, 3)
    assert not path.exists() and not journal.exists() and not unfinished.exists()


def test_a_blob_being_written_stays(library: Library) -> None:
    with library.session() as session, session.create() as writer:
        writer.write(b"half")
        assert library.prune(0) == Removal()
        writer.write(b" and half")
        assert library.blobs.read(writer.commit(), 100) == b"half and half"


def test_a_scratch_folder_in_use_stays_and_a_forgotten_one_goes(library: Library) -> None:
    with library.scratch() as folder:
        (folder / "piece").write_bytes(bytes(10))
        assert library.prune(0) == Removal()
        assert (folder / "piece").exists()
    assert not folder.exists()
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "piece").write_bytes(bytes(10))
    (folder / ".lock").touch()
    assert library.prune(0).files == 1
    assert not folder.exists()


def test_remains_among_the_manifests_go_and_unknown_files_stay(library: Library) -> None:
    publish(library, "m", b"weights")
    ours = library.manifests.folder / ".0123456789abcdef.tmp"
    other = library.manifests.folder / ".notes.tmp"
    for path in (ours, other):
        path.write_bytes(bytes(10))
    assert library.prune(0) == Removal(0, 10, 1)
    assert other.exists()


def test_empty_folders_among_the_manifests_go(library: Library) -> None:
    publish(library, "m", b"weights")
    (library.manifests.folder / "a" / "b" / "c").mkdir(parents=True)
    library.prune(0)
    assert [path.name for path in library.manifests.folder.iterdir()] == ["registry.ollama.ai"]


def test_notes_on_blobs_that_have_gone_go_too(library: Library) -> None:
    digest = add(library, b"content")
    assert [note.name for note in library.blobs.records.iterdir()] == [digest.hex]
    library.blobs.path(digest).unlink()
    library.prune(0)
    assert [*library.blobs.records.iterdir()] == []


def test_models_behind_links_count(library: Library, tmp_path: Path) -> None:
    publish(library, "h/n/m", b"weights")
    (library.manifests.folder / "h").rename(tmp_path / "elsewhere")
    (library.manifests.folder / "h").symlink_to(tmp_path / "elsewhere")
    publish(library, "m", b"weights")
    manifest = manifest_path(library, "m")
    manifest.rename(tmp_path / "document")
    manifest.symlink_to(tmp_path / "document")
    assert library.prune(0) == Removal()
    assert contents(library) == {b"weights"}
    assert len(library.listing().models) == 2


@pytest.mark.parametrize("place", [".", "h", "h/n", "h/n/m"])
def test_a_link_that_leads_back_is_an_error(library: Library, place: str) -> None:
    publish(library, "h/n/m", b"weights")
    add(library, b"unused")
    for name in ("loop", "pool"):
        (library.manifests.folder / place / name).symlink_to(library.manifests.folder)
    assert "is there a link that leads back?" in library.prune(0).kept
    assert contents(library) == {b"weights", b"unused"}
    assert "h/n/m:latest" in [str(model.name) for model in library.listing().models]


def test_hidden_files_are_no_manifests(library: Library) -> None:
    publish(library, "m", b"weights")
    for place in (".DS_Store", "registry.ollama.ai/.DS_Store", "registry.ollama.ai/library/m/.DS_Store"):
        (library.manifests.folder / place).write_bytes(DAMAGED)
    add(library, b"unused")
    assert library.prune(0) == Removal(1, len(b"unused"))
    assert contents(library) == {b"weights"}


def test_no_store_is_made_for_pruning(library: Library) -> None:
    assert library.prune(0) == Removal()
    assert not library.root.exists()


def test_a_store_whose_only_model_was_deleted(library: Library) -> None:
    publish(library, "m", b"weights")
    manifest_path(library, "m").unlink()
    assert library.prune(0) == Removal(2, len(b"weights") + len(CONFIG))
    assert contents(library) == set()


def test_a_blob_that_is_pruned_before_it_is_locked(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    def late(file: IO[bytes]) -> bool:
        if not taken:
            taken.append(file.name)
            assert library.prune(0).files == 1
        return try_lock(file)

    monkeypatch.setattr(blobs, "try_lock", late)
    digest = add(library, b"content")
    assert taken
    assert library.blobs.read(digest, 100) == b"content"
