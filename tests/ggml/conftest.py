"""The ggml libraries that are installed, and a way to use each in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puna.ggml import Candidate
from puna.ggml.locate import installed_candidates

INSTALLED = installed_candidates()

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def prebuilt() -> Path:
    """The folder of the library that every installation has."""
    return next(candidate.folder for candidate in INSTALLED if candidate.origin == "libggml-python")


@pytest.fixture(params=INSTALLED, ids=[candidate.origin for candidate in INSTALLED])
def installed(request: pytest.FixtureRequest) -> Candidate:
    """Each installed library in turn."""
    candidate: Candidate = request.param
    return candidate


@pytest.fixture(scope="session")
def run_python() -> RunPython:
    """Runs Python code in a new process; `ggml` names the folder of the library it shall load."""

    def run(code: str, *, ggml: Path | None = None) -> "subprocess.CompletedProcess[str]":
        environment = {key: value for key, value in os.environ.items() if key != "PUNA_GGML_PATH"}
        if ggml:
            environment["PUNA_GGML_PATH"] = str(ggml)
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
        )

    return run


@pytest.fixture(scope="session")
def answer(run_python: RunPython) -> Callable[[str, Path], Any]:
    """What code prints as JSON when it runs on the library of a folder."""

    def ask(code: str, ggml: Path) -> Any:
        done = run_python(code, ggml=ggml)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return ask
