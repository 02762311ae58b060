"""Several programs at once on one store: no model ever lacks a blob."""

import glob
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from tests.registry import docker_registry
from tests.registry.docker_registry import DockerRegistry
from tests.store.random_operations import IMAGES

from puna.store.library import Library
from puna.store.verify import verify_library

PROCESSES = 4


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry.anonymous(tmp_path_factory.mktemp("registry") / "registry") as running:
        for repository, image in IMAGES.items():
            running.hold(image, repository)
        yield running


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))])
def test_no_model_ever_lacks_a_blob(tmp_path: Path, registry: DockerRegistry, seed: int) -> None:
    root = tmp_path / "models"
    looks = 0
    with ExitStack() as stack:
        programs = [
            stack.enter_context(running(root, seed * PROCESSES + number, 50, registry.address))
            for number in range(PROCESSES)
        ]
        while any(program.poll() is None for program in programs):
            looks += check_every_model(root)
        did = ""
        for program in programs:
            out, err = program.communicate()
            assert (program.returncode, err) == (0, ""), err
            did += out
    for operation in ("create", "fetch", "copy", "remove", "prune"):
        assert f"{operation}=" in did
    assert looks > 100
    library = Library(root)
    assert verify_library(library, lambda _: None).damage == ()
    library.prune(0)
    check_that_nothing_is_left_over(root)


@contextmanager
def running(root: Path, seed: int, count: int, registry: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.store.random_operations", str(root), str(seed), str(count), registry],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as program:
        try:
            yield program
        finally:
            program.kill()


def check_every_model(root: Path) -> int:
    """Look at each manifest and the blobs that it names; how many of them there were.

    A blob that is missing is a fault unless the manifest has been changed or removed meanwhile.
    """
    checked = 0
    # The module's glob passes over folders that vanish while it looks; that of Path does not.
    for path in map(Path, glob.glob(str(root / "manifests/*/*/*/*"))):
        with suppress(FileNotFoundError):
            before = path.stat()
            document = json.loads(path.read_bytes())
            layers = (*document["layers"], document["config"])
            missing = [layer["digest"] for layer in layers if not blob(root, layer["digest"]).exists()]
            if missing and identity(path.stat()) == identity(before):
                raise AssertionError(f"{path} names {missing}, which are not there")
            checked += 1
    return checked


def identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_ino, info.st_mtime_ns


def blob(root: Path, digest: str) -> Path:
    return root / "blobs" / digest.replace(":", "-")


def check_that_nothing_is_left_over(root: Path) -> None:
    """Every blob is named by a manifest and right, and there is nothing else among them."""
    named = set()
    for path in (root / "manifests").glob("*/*/*/*"):
        document = json.loads(path.read_bytes())
        named |= {blob(root, layer["digest"]) for layer in (*document["layers"], document["config"])}
    assert {*(root / "blobs").iterdir()} == named
    for path in named:
        assert path.name == "sha256-" + hashlib.sha256(path.read_bytes()).hexdigest()
