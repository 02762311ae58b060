"""Backends by name."""

from pathlib import Path

import pytest

from puna.errors import GGUFError, InvalidOption
from puna.ml import Backend, BackendParams, backend, new_backend, register_backend
from puna.ml.backends import reference


@pytest.fixture
def factories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_factories", {})


@pytest.mark.usefixtures("factories")
def test_a_registered_backend_is_opened(model: tuple[Path, object]) -> None:
    seen: list[tuple[Path, BackendParams]] = []

    def factory(path: Path, params: BackendParams) -> Backend:
        seen.append((path, params))
        return reference.open_backend(path, params)

    register_backend("mine", factory)
    params = BackendParams(num_threads=3)
    with new_backend(model[0], params, name="mine") as opened:
        assert opened.config().architecture == "tiny"
    assert seen == [(model[0], params)]
    with pytest.raises(InvalidOption, match="'mine' is already registered"):
        register_backend("mine", factory)


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize("name", ["ggml", "reference"])
def test_names_of_built_in_backends_are_taken(name: str) -> None:
    with pytest.raises(InvalidOption, match="already registered"):
        register_backend(name, reference.open_backend)


def test_no_such_backend(model: tuple[Path, object]) -> None:
    with pytest.raises(InvalidOption, match=r"no backend 'cuda'; known: ggml, reference"):
        new_backend(model[0], name="cuda")


@pytest.mark.parametrize("name", ["ggml", "reference"])
def test_a_file_that_is_no_model(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_text("This is not a model, but a sentence that is long enough for a header.")
    with pytest.raises(GGUFError):
        new_backend(path, name=name)
