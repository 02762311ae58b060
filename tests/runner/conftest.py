"""Tiny models, and a look at what a test leaves behind."""

from pathlib import Path

import pytest
from tests.tiny_llama import write_tiny_llama


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("runner") / "tiny.gguf")


@pytest.fixture(scope="session")
def slow_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose answers take a while."""
    return write_tiny_llama(tmp_path_factory.mktemp("runner") / "slow.gguf", blocks=24, hidden=256)
