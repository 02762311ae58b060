"""Safetensors files of a request, with what belongs to them, as GGUF files in the store."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from puna.convert.convert import convert_model
from puna.convert.folder import ADAPTER_WEIGHTS, ModelFolder, wanted
from puna.convert.lora import convert_adapter
from puna.create.files import shown
from puna.errors import FormatError, GGUFError, StoreError
from puna.gguf import Metadata
from puna.progress import Progress, Report
from puna.store.library import Library, Session
from puna.store.manifests import ADAPTER_LAYER, MODEL_LAYER, Layer

SUFFIX = ".safetensors"


def packed(names: Mapping[str, Any]) -> list[str]:
    """Of the names of files, those that are of a model in safetensors; none where there is no such model."""
    if not any(name.lower().endswith(SUFFIX) for name in names):
        return []
    return [name for name in names if not name.lower().endswith(".gguf")]


def not_convertible(name: str) -> FormatError:
    """The error for a file in safetensors that is no part of a model."""
    return FormatError(
        f"{shown(name)} cannot be converted: a model is model.safetensors, whole or in numbered parts, "
        "beside its config.json"
    )


def converted_model(
    files: Mapping[str, Path], library: Library, session: Session, report: Report
) -> tuple[Layer, dict[str, Any]]:
    """The GGUF file that a model becomes, in the store, and the parameters that its makers give it.

    Args:
        files: where its files are, by their paths in its folder.

    Raises:
        FormatError, ModelError: as `puna.convert.convert.convert_model`.
        StoreError: the store cannot be written.
    """
    known = {*wanted(files)}
    strange = next((name for name in files if name.lower().endswith(SUFFIX) and name not in known), None)
    if strange is not None:
        raise not_convertible(strange)
    with _written(files, library) as target:
        made = convert_model(ModelFolder(files), target, report)
        report(Progress("verifying conversion"))
        name = min(name for name in files if name.endswith(SUFFIX))
        return session.adopt(MODEL_LAYER, target, from_=name), made.parameters


def converted_adapter(
    files: Mapping[str, Path], base: Metadata, library: Library, session: Session, report: Report
) -> Layer:
    """The GGUF file that an adapter becomes, in the store.

    Args:
        base: of the model that it is for.

    Raises:
        FormatError, ModelError: as `puna.convert.lora.convert_adapter`.
        StoreError: the store cannot be written.
    """
    with _written(files, library) as target:
        convert_adapter(files, base, target, report)
        return session.adopt(ADAPTER_LAYER, target, from_=ADAPTER_WEIGHTS)


@contextmanager
def _written(files: Mapping[str, Path], library: Library) -> Iterator[Path]:
    """Where to write what files become; gone at the end of the block."""
    library.blobs.make_room(sum(path.stat().st_size for path in files.values()))
    with library.scratch() as folder:
        try:
            yield folder / "converted.gguf"
        except GGUFError as error:
            if isinstance(error.__cause__, OSError):
                raise StoreError(
                    f"the converted model cannot be written: {error.__cause__.strerror}"
                ) from error
            raise
