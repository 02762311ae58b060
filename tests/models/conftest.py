"""Every test of models that takes `backend_name` runs on both backends."""

import pytest


@pytest.fixture(params=["reference", "ggml"])
def backend_name(request: pytest.FixtureRequest) -> str:
    """The name of a backend."""
    return str(request.param)
