"""The weights of a new model in another type, if one is asked for."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from puna.create.files import base_name, open_gguf, shown
from puna.create.layers import Base, Part, Stored
from puna.create.request import CreateRequest
from puna.errors import FormatError, InvalidOption
from puna.progress import Report
from puna.quantize.filetypes import FileType, file_type
from puna.quantize.importance import KIND
from puna.quantize.plan import Plan, plan_of
from puna.quantize.process import Job, quantize
from puna.store.digest import Digest
from puna.store.library import Library, Session
from puna.store.manifests import MODEL_LAYER, Layer

_SOURCES = ("F16", "BF16", "F32")


def quantization(wanted: str, present: str) -> FileType | None:
    """What a model has to be made into.

    Args:
        wanted: the type's name in any case; empty when none is wanted.
        present: the type that the model has.

    Returns:
        None when the model is what is wanted.

    Raises:
        InvalidOption: there is no such type, or the model cannot be brought to another.
    """
    target = file_type(wanted) if wanted else None
    if target is None or target.name == present:
        return None
    if present not in _SOURCES:
        raise InvalidOption("quantization is only supported for F16, BF16 and F32 models")
    return target


def quantized(
    base: Base, wanted: FileType, request: CreateRequest, library: Library, session: Session, report: Report
) -> Base:
    """The base with its weights in the type that is wanted; they are in the store then.

    Raises:
        InvalidOption: the model has no weights, weights in several files, or such as are quantized already.
        FormatError: the weights or the importance matrix make no sense.
        BackendError: the compute library is missing or has given up.
        StoreError: the store cannot be read or written.
    """
    models = [part for part in base.parts if isinstance(part, Stored) and part.media_type == MODEL_LAYER]
    if len(models) != 1:
        raise InvalidOption(f"only a model whose weights are in one file can be quantized, not {len(models)}")
    layer = _quantize(models[0].layer, base.config.file_type, wanted, request, library, session, report)
    parts: list[Part] = [Stored(layer, new=True) if part is models[0] else part for part in base.parts]
    config = msgspec.structs.replace(base.config, file_type=wanted.name)
    return replace(base, parts=tuple(parts), config=config)


def _quantize(
    layer: Layer,
    origin: str,
    wanted: FileType,
    request: CreateRequest,
    library: Library,
    session: Session,
    report: Report,
) -> Layer:
    source, name = library.blobs.path(layer.content), layer.from_ or str(request.name)
    with _named_faults({source: name}), _imatrix(request.imatrix, library) as (imatrix, imatrix_name):
        plan = _planned(source, name, wanted, weighted=imatrix is not None)
        library.blobs.make_room(plan.written)
        job = Job(source, origin, plan.read, wanted, imatrix, imatrix_name)
        with library.scratch() as folder:
            target = folder / "quantized.gguf"
            quantize(job, target, report)
            return session.adopt(layer.media_type, target, from_=layer.from_)


def _planned(source: Path, name: str, wanted: FileType, *, weighted: bool) -> Plan:
    with open_gguf(source, name) as file:
        return plan_of(file, wanted, weighted=weighted)


@contextmanager
def _imatrix(given: Mapping[str, Digest], library: Library) -> Iterator[tuple[Path | None, str]]:
    """The importance matrix, if one is given, and its name."""
    if not given:
        yield None, ""
        return
    ((name, digest),) = given.items()
    path = library.blobs.path(digest)
    with open_gguf(path, name) as file:
        if file.metadata.string("general.type", "") != KIND:
            raise FormatError(f"{shown(name)} is no importance matrix: its general.type does not say so")
    with _named_faults({path: name}):
        yield path, base_name(name)


@contextmanager
def _named_faults(names: Mapping[Path, str]) -> Iterator[None]:
    """Faults of files with the names that the user knows for the paths in the store."""
    try:
        yield
    except FormatError as error:
        text = str(error)
        for path, name in names.items():
            text = text.replace(str(path), shown(name))
        error.args = (text,)
        raise
