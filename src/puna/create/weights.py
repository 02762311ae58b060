"""The GGUF files of a model: found in the store, converted or merged if need be, checked, and told apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from puna.create.converting import converted_adapter, converted_model, packed
from puna.create.files import Unit, base_name, media_type, open_gguf, shown, units
from puna.create.merge import COUNT, merge
from puna.create.request import CreateRequest
from puna.errors import FormatError, StoreError
from puna.gguf import Metadata
from puna.progress import Progress, Report
from puna.store.config import ModelConfig, gguf_config
from puna.store.digest import Digest
from puna.store.library import Library, Session
from puna.store.manifests import ADAPTER_LAYER, MODEL_LAYER, PROJECTOR_LAYER, Layer
from puna.store.model import Model

GGUF_LAYERS = (MODEL_LAYER, PROJECTOR_LAYER, ADAPTER_LAYER)


@dataclass(frozen=True, slots=True)
class Weights:
    """A GGUF file of the store.

    Attributes:
        layer: what it is in a model.
        config: what the config says of a model with this file.
        new: whether this creation has put it into the store.
        parameters: that the model's makers want for it.
    """

    layer: Layer
    config: ModelConfig
    metadata: Metadata
    new: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)


def new_weights(
    request: CreateRequest, parent: Model | None, library: Library, session: Session, report: Report
) -> list[Weights]:
    """The files that a request brings, models first, then projectors, then adapters.

    Args:
        parent: the model to derive from.

    Raises:
        FormatError: one is damaged, incomplete, or not of the kind that belongs there.
        UnsupportedModel: one is of a kind that cannot be converted.
        WeightError: weights do not fit what is said of them.
        StoreError: one is not in the store, or the store cannot be read or written.
    """
    converted = packed(request.files)
    whole = [name for name in request.files if name not in converted]
    files = [_weights(unit, request.files, library, session, report) for unit in units(whole)]
    if converted:
        files.append(_converted({name: request.files[name] for name in converted}, library, session, report))
    _check_files(files, request)
    adapters = _adapters(request, [*files, *_parent_weights(parent, library)], library, session, report)
    for adapter in adapters:
        if adapter.layer.media_type != ADAPTER_LAYER:
            raise FormatError(f"{shown(adapter.layer.from_)} is no adapter: its general.type does not say so")
    return in_order([*files, *adapters])


def _converted(files: Mapping[str, Digest], library: Library, session: Session, report: Report) -> Weights:
    paths = {name: _blob(library, name, digest) for name, digest in files.items()}
    layer, parameters = converted_model(paths, library, session, report)
    return replace(_opened(layer, layer.from_, library), new=True, parameters=parameters)


def _adapters(
    request: CreateRequest, models: Sequence[Weights], library: Library, session: Session, report: Report
) -> list[Weights]:
    """The request's adapters; one in safetensors is converted for the first of the models."""
    converted = packed(request.adapters)
    if not converted:
        units_ = units(request.adapters)
        return [_weights(unit, request.adapters, library, session, report) for unit in units_]
    paths = {name: _blob(library, name, request.adapters[name]) for name in converted}
    base = next(file.metadata for file in models if file.layer.media_type == MODEL_LAYER)
    layer = converted_adapter(paths, base, library, session, report)
    return [replace(_opened(layer, layer.from_, library), new=True)]


def _parent_weights(parent: Model | None, library: Library) -> list[Weights]:
    return [] if parent is None else stored_weights(parent, library)


def stored_weights(model: Model, library: Library) -> list[Weights]:
    """The GGUF files that a model has. Raises: StoreError when one is missing or damaged."""
    layers = model.manifest.all(*GGUF_LAYERS)
    try:
        return in_order([_opened(layer, layer.digest, library) for layer in layers])
    except FormatError as error:
        raise StoreError(f"model '{model.name}' is damaged: {error}") from error


def in_order(files: Sequence[Weights]) -> list[Weights]:
    """Models first, then projectors, then adapters; the order of each kind is kept."""
    return sorted(files, key=lambda file: GGUF_LAYERS.index(file.layer.media_type))


def _weights(
    unit: Unit, digests: Mapping[str, Digest], library: Library, session: Session, report: Report
) -> Weights:
    paths = [(part, _blob(library, part, digests[part])) for part in unit.parts]
    if len(paths) > 1:
        layer = merged(unit.name, paths, library, session, report)
        return _typed(layer, unit.name, library, report, new=True)
    digest = digests[unit.parts[0]]
    layer = Layer(MODEL_LAYER, str(digest), library.blobs.size(digest) or 0, from_=base_name(unit.name))
    return _typed(layer, unit.name, library, report)


def merged(
    name: str, parts: Sequence[tuple[str, Path]], library: Library, session: Session, report: Report
) -> Layer:
    """Store the parts of a split file as one. Raises: FormatError, StoreError."""
    library.blobs.make_room(sum(path.stat().st_size for _, path in parts))
    with library.scratch() as folder:
        merge(parts, folder / "merged.gguf", report)
        return session.adopt(MODEL_LAYER, folder / "merged.gguf", from_=base_name(name))


def _typed(layer: Layer, name: str, library: Library, report: Report, *, new: bool = False) -> Weights:
    report(Progress("parsing GGUF"))
    found = _opened(layer, name, library)
    if found.metadata.get(COUNT, 1) not in (0, 1):
        raise FormatError(f"{shown(name)} is one part of a split model; give all parts under their own names")
    kind = media_type(found.metadata)
    return Weights(
        Layer(kind, layer.digest, layer.size, from_=layer.from_), found.config, found.metadata, new
    )


def _opened(layer: Layer, name: str, library: Library) -> Weights:
    with open_gguf(library.blobs.path(layer.content), name) as file:
        return Weights(layer, gguf_config(file), file.metadata)


def _blob(library: Library, name: str, digest: Digest) -> Path:
    if not library.blobs.verified(digest):
        raise StoreError(f"{shown(name)}: blob {digest} not found")
    return library.blobs.path(digest)


def _check_files(files: Sequence[Weights], request: CreateRequest) -> None:
    models = [shown(file.layer.from_) for file in files if file.layer.media_type == MODEL_LAYER]
    adapter = next((file for file in files if file.layer.media_type == ADAPTER_LAYER), None)
    if adapter is not None:
        raise FormatError(f"{shown(adapter.layer.from_)} is an adapter; name it as one, with ADAPTER")
    if len(models) > 1:
        raise FormatError(f"{' and '.join(models[:2])} are two models; one is wanted")
    if request.from_ is None and not models:
        raise FormatError(f"{shown(files[0].layer.from_)} is a projector; a model is wanted with it")
    if request.from_ is not None and models:
        raise FormatError(f"{models[0]} is a second model beside '{request.from_}'; one is wanted")
