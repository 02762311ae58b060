"""A tiny model for the engine's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.tiny_llama import write_tiny_llama

from puna.engine.load import LoadedModel, load_model
from puna.engine.options import LoadOptions


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def tiny(tiny_path: Path) -> Iterator[LoadedModel]:
    with load_model(tiny_path, LoadOptions(num_threads=1, num_parallel=2)) as model:
        yield model
