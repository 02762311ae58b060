"""A backend without a model, whose wishes for a cache can be set."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from tests.kvcache.drive import ConfiguredBackend, MakeBackend

from puna.gguf import GGMLType, GGUFWriter
from puna.ml import Backend, BackendParams, new_backend


@pytest.fixture(scope="session")
def empty_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a number of layers and hardly anything else."""
    path = tmp_path_factory.mktemp("kvcache") / "empty.gguf"
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", "none")
        writer.add("none.block_count", 4)
        writer.add_tensor("one.weight", GGMLType.F32, (1,), np.ones(1, np.float32).tobytes())
    return path


@pytest.fixture
def make_backend(empty_model: Path) -> Iterator[MakeBackend]:
    """Opens backends that the test need not close."""
    with ExitStack() as stack:
        yield lambda config: stack.enter_context(ConfiguredBackend(empty_model, config))


@pytest.fixture(params=["reference", "ggml"])
def backend(request: pytest.FixtureRequest, empty_model: Path) -> Iterator[Backend]:
    """Either backend as it is."""
    with new_backend(empty_model, BackendParams(num_threads=1), name=request.param) as opened:
        yield opened
