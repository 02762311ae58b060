"""The judge of templates in Go's language."""

import pytest
from tests.template.go_oracle import Oracle


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    """Go's own text/template."""
    return Oracle.build(tmp_path_factory.mktemp("go"))
