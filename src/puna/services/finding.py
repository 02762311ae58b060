"""From what a user calls a model to the GGUF file on disk."""

import os
from dataclasses import dataclass
from pathlib import Path

from puna.errors import FetchError, FormatError, InvalidOption, ModelNotFound
from puna.progress import Report
from puna.store.library import Library
from puna.store.model import Model, read_model
from puna.store.name import PYPI_SCHEME, ModelName, parse_name, scheme_of

_PATH_STARTS = ("/", "./", "../", "~/", ".\\", "..\\", "~\\")


@dataclass(frozen=True, slots=True)
class FoundModel:
    """What is to be run.

    Attributes:
        path: the GGUF file.
        model: what the store says of it; None for a file that the user named.
        adapters: the files of its adapters.
    """

    path: Path
    model: Model | None = None
    adapters: tuple[Path, ...] = ()


def is_file_name(model: str) -> bool:
    """Whether `model` is the path of a file, rather than a name that a store or a server knows."""
    if model.lower().startswith(PYPI_SCHEME):
        return False
    path = Path(os.path.expanduser(model))
    return model.startswith(_PATH_STARTS) or model.lower().endswith(".gguf") or path.is_file()


def find_model(model: str, library: Library, report: Report, *, insecure: bool = False) -> FoundModel:
    """What `model` means: the path of a GGUF file, or a name.

    A model that is not in the store is pulled.

    Args:
        report: told the steps of the pull.
        insecure: plain http and private addresses are allowed for the name's registry.

    Raises:
        ModelNotFound: there is no such file or model.
        FormatError: the path leads to something that cannot be a model.
        FetchError: the model cannot be fetched.
        InvalidOption: this is neither a path nor a name.
    """
    path = Path(os.path.expanduser(model))
    if is_file_name(model):
        return FoundModel(_regular_file(path))
    try:
        name = parse_name(model)
    except InvalidOption:
        if model and path.exists():
            return FoundModel(_regular_file(path))
        raise
    if library.manifests.find(name) is None:
        if path.exists() and not model.lower().startswith(PYPI_SCHEME):
            return FoundModel(_regular_file(path))
        _pull(name, library, report, scheme_of(model), insecure=insecure)
    found = read_model(library, name)
    return FoundModel(found.weights(library.blobs), found, found.adapter_files(library.blobs))


def _pull(name: ModelName, library: Library, report: Report, scheme: str, *, insecure: bool) -> None:
    # Most runs find their model in the store and are spared these imports.
    from puna.services.template_check import pull_model

    try:
        pull_model(name, library, report, scheme=scheme, insecure=insecure)
    except FetchError as error:
        if name.is_pypi:
            raise
        raise ModelNotFound(f"model '{name}' not found here, and cannot be pulled: {error}") from error


def _regular_file(path: Path) -> Path:
    if path.is_dir():
        raise FormatError(f"{path} is a folder; a GGUF file is wanted")
    if not path.exists():
        raise ModelNotFound(f"{path}: no such file")
    if not path.is_file():
        raise FormatError(f"{path} is not a regular file; a GGUF file is wanted")
    return path
