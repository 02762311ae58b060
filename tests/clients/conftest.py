"""A server that clients may change, and the registry that it pulls from and pushes to."""

import hashlib
import os
import shutil
import subprocess
import venv
from collections.abc import Callable, Iterator
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
FRAMEWORKS = Path(__file__).parents[2] / "requirements-frameworks.txt"
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

    def install(packages: Path) -> None:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(JS / name, packages)
        # Exactly what the lock file names, each of the digest that it names.
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(packages)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)

    packages = _installed("node", lock, install)
    folder = tmp_path_factory.mktemp("node")
    (folder / "node_modules").symlink_to(packages / "node_modules")
    for script in JS.glob("*.mjs"):
        shutil.copy(script, folder)
    return folder


@pytest.fixture(scope="session")
def frameworks_python() -> Path:
    """Python with the frameworks, in an environment that is kept between runs.

    It is another one than that of the tests: frameworks need other versions of what these use, and bring
    plugins of pytest.
    """

    def install(environment: Path) -> None:
        venv.create(environment, with_pip=True)
        pip = [str(environment / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(FRAMEWORKS)], check=True, capture_output=True, timeout=900)

    return _installed("frameworks", FRAMEWORKS, install) / "bin" / "python"


def _installed(name: str, lock: Path, install: Callable[[Path], None]) -> Path:
    """A folder with what a file says is to be installed there, made anew where that has changed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "puna-tests"
    folder = cache / f"{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not (folder / "installed").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        install(folder)
        (folder / "installed").touch()
    return folder
