"""A server that clients may change, and the registry that it pulls from and pushes to."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.registry import docker_registry
from tests.registry.docker_registry import DockerRegistry
from tests.scripted_llama import START, write_scripted_llama
from tests.served import Served, serving
from tests.served_models import CHAT, GREEDY, add_model

from puna.store.library import Library

JS = Path(__file__).with_name("js")
WORDS = ("one", "two", "three", "four")


@dataclass(frozen=True, slots=True)
class Managed:
    """A server of its own store.

    Attributes:
        registry: one that it may speak plain http to.
        file: the model file of `said`.
    """

    server: Served
    registry: DockerRegistry
    file: Path


@pytest.fixture(scope="session")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    """A server with one model, `said`, which tests leave as it is."""
    folder = tmp_path_factory.mktemp("managed")
    file = write_scripted_llama(folder / "said.gguf", WORDS)
    add_model(Library(folder / "models"), "said", file, template=CHAT + START, parameters=GREEDY)
    with docker_registry.anonymous(folder / "registry") as registry:
        config = folder / "config.toml"
        config.write_text(f'[registries."{registry.address}"]\nplain_http = true\nprivate = true\n')
        with serving(folder, folder / "models", PUNA_CONFIG=str(config)) as server:
            yield Managed(server, registry, file)


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts beside the packages that they import, which are kept between runs."""
    lock = JS / "package-lock.json"
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "puna-tests"
    packages = cache / f"node-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not (packages / "installed").exists():
        shutil.rmtree(packages, ignore_errors=True)
        packages.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(JS / name, packages)
        # Exactly what the lock file names, each of the digest that it names.
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(packages)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        (packages / "installed").touch()
    folder = tmp_path_factory.mktemp("node")
    (folder / "node_modules").symlink_to(packages / "node_modules")
    for script in JS.glob("*.mjs"):
        shutil.copy(script, folder)
    return folder
