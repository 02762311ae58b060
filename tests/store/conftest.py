"""A store of each test's own."""

from pathlib import Path

import pytest

from puna.store.library import Library


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """A store in which nothing is yet."""
    return Library(tmp_path / "models")
