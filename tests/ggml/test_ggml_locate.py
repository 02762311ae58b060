"""Where the loader looks, with folders that only look like ggml."""

import sys
from pathlib import Path

import pytest

from puna.errors import BackendError
from puna.ggml import candidates, load
from puna.ggml.locate import PREFIX, SUFFIX, Candidate, installed_candidates

LIBRARY = f"{PREFIX}ggml{SUFFIX}"


def fake(site: Path, package: str, release: str, folder: str = "lib") -> Path:
    """A package with an empty library in it, and its metadata."""
    libraries = site / package / folder
    libraries.mkdir(parents=True)
    (libraries / LIBRARY).touch()
    distribution = {"puna_ggml": "puna_ggml", "ggml": "ggml_python", "libggml": "libggml_python"}[package]
    (site / f"{distribution}-{release}.dist-info").mkdir()
    return libraries


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that packages are found in."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


def test_what_was_compiled_here_comes_first(site: Path) -> None:
    prebuilt = fake(site, "libggml", "0.20.2.post1", "lib64")
    assert installed_candidates() == [Candidate("libggml-python", prebuilt)]
    older = fake(site, "ggml", "0.0.45")
    newest = fake(site, "puna_ggml", "0.25.3")
    assert [found.folder for found in installed_candidates()] == [newest, older, prebuilt]


def test_a_release_that_is_too_old_is_passed_over(site: Path) -> None:
    fake(site, "ggml", "0.0.37")
    prebuilt = fake(site, "libggml", "0.20.2.post1")
    assert [found.folder for found in installed_candidates()] == [prebuilt]


def test_another_package_of_the_same_name_is_passed_over(site: Path) -> None:
    fake(site, "ggml", "0.0.45")
    (site / "ggml_python-0.0.45.dist-info").rename(site / "ggml-0.0.45.dist-info")
    assert installed_candidates() == []


def test_a_package_without_libraries_is_passed_over(site: Path) -> None:
    (fake(site, "ggml", "0.0.45") / LIBRARY).unlink()
    assert installed_candidates() == []


def test_the_users_own_folder_comes_before_every_package(site: Path, tmp_path: Path) -> None:
    fake(site, "puna_ggml", "0.25.3")
    own = tmp_path / "build" / "bin"
    own.mkdir(parents=True)
    (own / LIBRARY).touch()
    assert candidates(own) == candidates(tmp_path / "build") == [Candidate("path", own)]


def test_parts_are_opened_after_those_they_need(tmp_path: Path) -> None:
    parts = ("ggml", "ggml-rpc", "ggml-cpu", "ggml-base", "ggml-cpu-haswell")
    for part in parts:
        (tmp_path / f"{PREFIX}{part}{SUFFIX}").touch()
    names = [file.name for file in Candidate("path", tmp_path).files]
    assert names == [f"{PREFIX}{part}{SUFFIX}" for part in ("ggml-base", "ggml-cpu", "ggml-rpc", "ggml")]


def test_backends_loaded_at_run_time_are_left_to_ggml(tmp_path: Path) -> None:
    for part in ("ggml", "ggml-base", "ggml-cpu-haswell", "ggml-cuda"):
        (tmp_path / f"{PREFIX}{part}{SUFFIX}").touch()
    names = [file.name for file in Candidate("path", tmp_path).files]
    assert names == [f"{PREFIX}ggml-base{SUFFIX}", LIBRARY]


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"nowhere is not a folder; PUNA_GGML_PATH must name"):
        load(tmp_path / "nowhere")


def test_a_folder_without_ggml(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"holds no .*ggml.*; point PUNA_GGML_PATH at a shared build"):
        load(tmp_path)
