"""Publishing, copying and deleting models."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.store.filled import (
    CONFIG,
    DAMAGED,
    contents,
    digest_of,
    layer_of,
    manifest_of,
    manifest_path,
    names,
    publish,
    write_manifest,
)

from puna.errors import ModelNotFound, StoreError
from puna.store.library import Library, Removal
from puna.store.name import parse_name

WRITER = """
import sys
from pathlib import Path
from puna.store.library import Library
from puna.store.name import parse_name
library = Library(Path(sys.argv[1]))
first, second = (library.manifests.stored(parse_name(name)).content for name in ("a", "b"))
for turn in range(int(sys.argv[2])):
    library.manifests.write(parse_name("m"), second if turn % 2 else first)
"""


def copy(library: Library, source: str, target: str) -> Removal:
    return library.copy(parse_name(source), parse_name(target))


def delete(library: Library, name: str) -> Removal:
    return library.delete(parse_name(name))


def test_publishing_again_deletes_what_only_the_former_model_used(library: Library) -> None:
    publish(library, "m", b"shared", b"old")
    publish(library, "other", b"shared")
    assert publish(library, "m", b"new") == Removal(1, len(b"old"))
    assert contents(library) == {b"shared", b"new"}


def test_publishing_again_may_leave_the_old_to_prune(library: Library) -> None:
    keeping = Library(library.root, keep_unused=True)
    publish(keeping, "m", b"old")
    assert publish(keeping, "m", b"new") == Removal()
    assert contents(library) == {b"old", b"new"}
    assert library.prune(0) == Removal(1, len(b"old"))


def test_a_published_document_keeps_its_bytes(library: Library) -> None:
    publish(library, "m", b"weights")
    document = manifest_path(library, "m").read_bytes()
    spaced = document.replace(b":", b" : ").replace(b"sha256 : ", b"sha256:")
    with library.session() as session:
        session.publish(parse_name("n"), spaced)
    assert manifest_path(library, "n").read_bytes() == spaced
    assert library.manifests.read(parse_name("n")) == library.manifests.read(parse_name("m"))


def test_a_document_that_cannot_be_a_manifest_changes_nothing(library: Library) -> None:
    publish(library, "m", b"weights")
    before = manifest_path(library, "m").read_bytes()
    with library.session() as session, pytest.raises(StoreError):
        session.publish(parse_name("m"), DAMAGED)
    assert manifest_path(library, "m").read_bytes() == before
    assert contents(library) == {b"weights"}


def test_readers_see_the_old_or_the_new_manifest(library: Library) -> None:
    publish(library, "a", b"first")
    publish(library, "b", b"second", b"third")
    copy(library, "a", "m")
    allowed = {manifest_path(library, name).read_bytes() for name in ("a", "b")}
    with subprocess.Popen([sys.executable, "-c", WRITER, str(library.root), "100"]) as process:
        seen = set()
        while process.poll() is None:
            seen.add(library.manifests.stored(parse_name("m")).content)
    assert process.returncode == 0
    assert seen <= allowed
    assert [path.name for path in library.manifests.folder.iterdir()] == ["registry.ollama.ai"]


def test_a_copy_shares_its_blobs(library: Library) -> None:
    publish(library, "m", b"weights")
    assert copy(library, "m", "me/n:1") == Removal()
    assert manifest_path(library, "me/n:1").read_bytes() == manifest_path(library, "m").read_bytes()
    assert delete(library, "m") == Removal()
    assert contents(library) == {b"weights"}
    assert delete(library, "me/n:1") == Removal(2, len(b"weights") + len(CONFIG))


def test_a_copy_over_another_model_deletes_what_only_that_used(library: Library) -> None:
    publish(library, "m", b"weights")
    publish(library, "n", b"other")
    assert copy(library, "m", "n") == Removal(1, len(b"other"))
    assert contents(library) == {b"weights"}


@pytest.mark.parametrize("target", ["m", "M", "m:LATEST", "registry.ollama.ai/library/m:latest"])
def test_a_copy_to_itself_does_nothing(library: Library, target: str) -> None:
    publish(library, "m", b"weights")
    before = manifest_path(library, "m").stat()
    assert copy(library, "m", target) == Removal()
    after = manifest_path(library, "m").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert names(library) == ["m:latest"]


def test_a_copy_of_nothing(library: Library) -> None:
    with pytest.raises(ModelNotFound, match="model 'm:latest' not found"):
        copy(library, "m", "n")
    assert not library.root.exists()


def test_a_copy_of_a_damaged_model(library: Library) -> None:
    write_manifest(library, "m", DAMAGED)
    with pytest.raises(StoreError):
        copy(library, "m", "n")
    assert not manifest_path(library, "n").exists()


def test_twins_but_for_case_made_by_others_stay_apart(library: Library) -> None:
    publish(library, "m", b"lower")
    publish(library, "other", b"upper")
    write_manifest(library, "M", manifest_path(library, "other").read_bytes())
    assert copy(library, "M", "m") == Removal(1, len(b"lower"))
    delete(library, "M")
    assert sorted(names(library)) == ["m:latest", "other:latest"]
    assert contents(library) == {b"upper"}


def test_a_deletion_takes_empty_folders_along_and_no_others(library: Library) -> None:
    publish(library, "me/m:1", b"weights")
    publish(library, "me/m:2", b"weights")
    delete(library, "ME/M:1")
    assert manifest_path(library, "me/m:2").exists()
    (manifest_path(library, "me/m:2").parent.parent / "notes.txt").write_text("mine")
    delete(library, "me/m:2")
    assert [path.name for path in library.manifests.folder.rglob("*")] == [
        "registry.ollama.ai",
        "me",
        "notes.txt",
    ]


def test_a_model_with_a_damaged_manifest_can_be_deleted(library: Library) -> None:
    write_manifest(library, "m", DAMAGED)
    assert delete(library, "m") == Removal()
    assert [*library.manifests.folder.iterdir()] == []


def test_a_damaged_manifest_of_another_model_keeps_all_blobs(library: Library) -> None:
    publish(library, "m", b"weights")
    damaged = write_manifest(library, "broken", DAMAGED)
    for done in (delete(library, "m"), library.prune(0)):
        assert (done.blobs, done.size) == (0, 0)
        assert done.kept.startswith("unused blobs are kept")
        assert str(damaged) in done.kept
    assert contents(library) == {b"weights"}
    delete(library, "broken")
    assert library.prune(0).blobs == 2


def test_a_deletion_of_nothing_makes_nothing(library: Library) -> None:
    with pytest.raises(ModelNotFound):
        delete(library, "m")
    assert not library.root.exists()


def test_discarding_spares_what_is_in_use(library: Library) -> None:
    assert library.discard([digest_of(b"used")]) == Removal()
    assert not library.root.exists()
    publish(library, "m", b"used")
    with library.session() as session:
        unused = [session.add("x", [content]).content for content in (b"one", b"two")]
        candidates = [digest_of(b"used"), digest_of(b"never"), *unused]
        assert library.discard(candidates).size == 0
    assert library.discard(candidates).size == len(b"onetwo")
    assert contents(library) == {b"used"}


def test_a_name_too_long_for_the_disk(library: Library) -> None:
    long = "h" * 300 + "/n/m"
    assert library.manifests.find(parse_name(long)) is None
    with pytest.raises(StoreError, match="File name too long"):
        publish(library, long, b"x")


def test_a_folder_in_a_manifests_place_is_no_model(library: Library) -> None:
    manifest_path(library, "m").mkdir(parents=True)
    assert library.manifests.find(parse_name("m")) is None
    with pytest.raises(StoreError, match="Is a directory"):
        publish(library, "m", b"x")


def test_a_pipe_or_a_loop_in_a_manifests_place_is_an_error(library: Library) -> None:
    publish(library, "m", b"x")
    pipe = manifest_path(library, "pipe")
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    assert "is not a regular file" in library.prune(0).kept
    pipe.unlink()
    pipe.symlink_to(pipe)
    assert "symbolic links" in library.prune(0).kept
    assert names(library) == ["m:latest"]


def test_a_full_disk_leaves_the_store_as_it_was(library: Library, tmp_path: Path) -> None:
    publish(library, "m", b"weights")
    code = (
        "import resource, sys; from pathlib import Path; from puna.store.library import Library\n"
        "from puna.errors import StoreError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "with Library(Path(sys.argv[1])).session() as session:\n"
        "    try: session.add('x', [b'a' * 96_000, b'b' * 5_000, b'c' * 5_000])\n"
        "    except StoreError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(library.root)], capture_output=True, text=True, check=True
    )
    assert "File too large" in done.stdout
    assert manifest_of(layer_of(b"weights")) == library.manifests.read(parse_name("m"))
    assert contents(library) == {b"weights"}


def preceded(library: Library, act: Callable[[], object]) -> Library:
    """The same library, but just before its lock is taken for the second time, another process acts."""
    turns = iter((lambda: None, act))

    class Preceded(Library):
        __slots__ = ()

        @contextmanager
        def _lock(self) -> Iterator[None]:
            next(turns, lambda: None)()
            with super()._lock():
                yield

    return Preceded(library.root)


def test_a_model_that_is_deleted_while_it_is_copied(library: Library) -> None:
    publish(library, "a", b"content")
    with pytest.raises(ModelNotFound):
        copy(preceded(library, lambda: delete(library, "a")), "a", "b")
    assert names(library) == []


def test_a_model_that_is_replaced_while_it_is_copied(library: Library) -> None:
    publish(library, "a", b"old")
    copy(preceded(library, lambda: publish(library, "a", b"new")), "a", "b")
    assert manifest_path(library, "b").read_bytes() == manifest_path(library, "a").read_bytes()
    assert contents(library) == {b"new"}
