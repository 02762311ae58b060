"""Sessions that leave nothing behind: what they wrote and no model uses goes, what was there before stays."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from puna.store.digest import Digest
from puna.store.library import Library
from puna.store.manifests import CONFIG_TYPE, MODEL_LAYER, Layer, image_manifest
from puna.store.name import parse_name

NAME = parse_name("m")


def uploaded(library: Library, content: bytes) -> Digest:
    with library.session() as session:
        return session.add(MODEL_LAYER, [content]).content


def make(library: Library, content: bytes) -> None:
    with library.session() as session:
        layers: list[Layer] = [session.add(MODEL_LAYER, [content])]
        session.publish(NAME, image_manifest(session.add(CONFIG_TYPE, [b"{}"]), layers))


def contents(library: Library) -> set[bytes]:
    return {library.blobs.path(digest).read_bytes() for digest in library.blobs}


def test_what_a_failed_operation_wrote_goes(tmp_path: Path) -> None:
    library = Library(tmp_path / "models")
    upload = uploaded(library, b"upload")
    make(library, b"model")
    with pytest.raises(KeyError), library.tidy_session() as session:
        session.pin(upload)
        session.add(MODEL_LAYER, [b"new"])
        session.add(MODEL_LAYER, [b"model"])
        raise KeyError
    assert contents(library) == {b"upload", b"model", b"{}"}


def test_what_is_not_published_goes_after_a_success_too(tmp_path: Path) -> None:
    library = Library(tmp_path / "models")
    with library.tidy_session() as session:
        session.add(MODEL_LAYER, [b"piece"])
        make(library, b"whole")
    assert contents(library) == {b"whole", b"{}"}


@pytest.mark.parametrize("keep", [False, True])
def test_what_only_the_replaced_model_used_goes_unless_it_is_kept(tmp_path: Path, keep: bool) -> None:
    library = Library(tmp_path / "models", keep_unused=keep)
    make(library, b"old")
    with library.tidy_session() as session:
        session.pin(*(layer.content for layer in library.manifests.read(NAME).blobs))
        make(library, b"new")
    assert contents(library) == {b"new", b"{}"} | ({b"old"} if keep else set())


def test_what_another_operation_relies_on_stays(tmp_path: Path) -> None:
    library = Library(tmp_path / "models")
    with library.session() as other:
        with library.tidy_session() as session:
            digest = session.add(MODEL_LAYER, [b"both"]).content
            other.pin(digest)
        assert contents(library) == {b"both"}


def test_a_store_that_was_not_there_is_not_there_after_a_failure(tmp_path: Path) -> None:
    library = Library(tmp_path / "home" / "models")
    with pytest.raises(KeyError), library.tidy_session() as session:
        session.add(MODEL_LAYER, [b"new"])
        raise KeyError
    assert not (tmp_path / "home").exists()


def test_a_store_that_another_has_begun_to_use_stays(tmp_path: Path) -> None:
    library = Library(tmp_path / "models")
    with ExitStack() as other:
        with pytest.raises(KeyError), library.session():
            other.enter_context(library.session())
            library.blobs.make_room(0)
            raise KeyError
        assert library.blobs.folder.is_dir()
