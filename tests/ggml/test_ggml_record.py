"""Installed libraries that are no longer those that were installed (H05)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from puna.errors import BackendError
from puna.ggml.locate import Candidate, installed_candidates
from puna.ggml.record import check_installed

LOAD = "import puna.ggml; print(puna.ggml.load().folder)"


@pytest.fixture
def installed(tmp_path: Path) -> Candidate:
    """A copy of the best installed package, with its metadata, where an import finds it first."""
    found = installed_candidates()[0]
    assert found.record is not None, "pip writes one"
    package = found.folder.parent
    shutil.copytree(package, tmp_path / package.name)
    shutil.copytree(found.record.parent, tmp_path / found.record.parent.name)
    record = tmp_path / found.record.parent.name / "RECORD"
    return Candidate(found.origin, tmp_path / package.name / found.folder.name, record)


def loaded(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), *filter(None, sys.path)))}
    return subprocess.run(
        [sys.executable, "-c", LOAD], env=environment, capture_output=True, text=True, check=False
    )


def test_what_was_installed_is_loaded(installed: Candidate, tmp_path: Path) -> None:
    check_installed(installed)
    done = loaded(tmp_path)
    assert (done.stdout.strip(), done.returncode) == (str(installed.folder), 0), done.stderr


def test_another_library_in_its_place_is_not_loaded(installed: Candidate, tmp_path: Path) -> None:
    last = installed.files[-1]
    with last.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BackendError, match="has changed since it was installed"):
        check_installed(installed)
    done = loaded(tmp_path)
    assert done.returncode == 1 and f"{last} has changed since it was installed" in done.stderr


def test_what_nothing_is_noted_of_is_loaded(installed: Candidate, tmp_path: Path) -> None:
    """A build of the user's own has no RECORD, and an editable one no checksums."""
    check_installed(Candidate("path", installed.folder))
    record = installed.record
    assert record is not None
    record.write_text("".join(f"{file},,\n" for file in installed.files), encoding="utf-8")
    check_installed(installed)


def test_a_record_that_cannot_be_read(installed: Candidate) -> None:
    record = installed.record
    assert record is not None
    record.write_bytes(b"\xff\xfe")
    with pytest.raises(BackendError, match="RECORD cannot be read"):
        check_installed(installed)
