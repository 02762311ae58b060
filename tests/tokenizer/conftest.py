"""llama.cpp as the oracle."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tokenizer.oracle import LlamaCpp


@pytest.fixture(scope="session")
def llama_cpp() -> Callable[[Path], LlamaCpp]:
    return LlamaCpp
