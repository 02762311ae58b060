"""A model as its manifest describes it: what to load, and what to prompt it with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from puna.errors import StoreError, UnsupportedModel
from puna.store.blobs import BlobStore
from puna.store.config import ModelConfig, decode_config
from puna.store.digest import Digest
from puna.store.library import Library
from puna.store.manifests import (
    ADAPTER_LAYER,
    LICENSE_LAYER,
    MESSAGES_LAYER,
    MODEL_LAYER,
    PARAMETERS_LAYER,
    PROJECTOR_LAYER,
    PROMPT_LAYER,
    SYSTEM_LAYER,
    TEMPLATE_LAYER,
    Layer,
    Manifest,
    StoredManifest,
    decode_manifest,
    model_digest,
)
from puna.store.name import ModelName

DOCUMENT_LIMIT = 16 << 20
"""The longest template, system prompt, license or other document of a model, in bytes."""

T = TypeVar("T")


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message that every conversation with the model begins with."""

    role: str
    content: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the store.

    Attributes:
        name: under which it was found, in the spelling of the store.
        digest: 64 hexadecimal digits.
        parent: the model it was made from, as it was named then; empty when it was made from files.
        path: the GGUF file; None when it has none. Whether the file is there is not looked at.
        adapters: GGUF files of adapters.
        projectors: GGUF files of what turns images or sound into embeddings.
        template: the Go template of its prompts; None leaves it to the GGUF file.
        parameters: options by name that apply where the caller sets none.
    """

    name: ModelName
    digest: str
    manifest: Manifest
    config: ModelConfig
    parent: str
    path: Path | None
    adapters: tuple[Path, ...]
    projectors: tuple[Path, ...]
    template: str | None
    system: str
    parameters: dict[str, Any]
    messages: tuple[Message, ...]
    licenses: tuple[str, ...]

    def weights(self, blobs: BlobStore) -> Path:
        """The GGUF file, which is there and has its full length.

        Raises:
            UnsupportedModel: the model has none.
            StoreError: the file is missing or of another length.
        """
        layer = self.manifest.first(MODEL_LAYER)
        if layer is None:
            raise UnsupportedModel(f"model '{self.name}' has no GGUF file")
        return self._whole(blobs, layer)

    def adapter_files(self, blobs: BlobStore) -> tuple[Path, ...]:
        """The GGUF files of its adapters, likewise. Raises: StoreError."""
        return tuple(self._whole(blobs, layer) for layer in self.manifest.all(ADAPTER_LAYER))

    def _whole(self, blobs: BlobStore, layer: Layer) -> Path:
        path, size = blobs.path(layer.content), blobs.size(layer.content)
        if size != layer.size:
            state = "missing" if size is None else f"{size} bytes long instead of {layer.size}"
            raise StoreError(f"model '{self.name}' is damaged: its file {path} is {state}")
        return path


def read_model(library: Library, name: ModelName) -> Model:
    """The model `name`.

    Raises:
        ModelNotFound: the store has no such model.
        StoreError: its manifest or one of its documents is missing or damaged.
    """
    return stored_model(library, library.manifests.stored(name))


def stored_model(library: Library, stored: StoredManifest) -> Model:
    """The model that a manifest of the store describes. Raises: StoreError, as `read_model`."""
    try:
        return _model(library.blobs, stored)
    except StoreError as error:
        raise StoreError(f"model '{stored.name}' is damaged: {error}") from error


def _model(blobs: BlobStore, stored: StoredManifest) -> Model:
    manifest = decode_manifest(stored.content)
    weights = manifest.first(MODEL_LAYER)
    templates = _texts(blobs, manifest, TEMPLATE_LAYER, PROMPT_LAYER)
    systems = _texts(blobs, manifest, SYSTEM_LAYER)
    conversations = _documents(blobs, manifest, MESSAGES_LAYER, list[Message])
    parameters: dict[str, Any] = {}
    for document in _documents(blobs, manifest, PARAMETERS_LAYER, dict[str, Any]):
        parameters |= document
    return Model(
        name=stored.name,
        digest=model_digest(stored.content),
        manifest=manifest,
        config=_config(blobs, manifest.config.content),
        parent=weights.from_ if weights else "",
        path=blobs.path(weights.content) if weights else None,
        adapters=_paths(blobs, manifest, ADAPTER_LAYER),
        projectors=_paths(blobs, manifest, PROJECTOR_LAYER),
        template=templates[-1] if templates else None,
        system=systems[-1] if systems else "",
        parameters=parameters,
        messages=tuple(conversations[-1]) if conversations else (),
        licenses=tuple(_texts(blobs, manifest, LICENSE_LAYER)),
    )


def _config(blobs: BlobStore, digest: Digest) -> ModelConfig:
    content = blobs.read(digest, DOCUMENT_LIMIT)
    try:
        return decode_config(content)
    except StoreError as error:
        raise StoreError(f"{digest}: {error}") from error


def _paths(blobs: BlobStore, manifest: Manifest, media_type: str) -> tuple[Path, ...]:
    return tuple(blobs.path(layer.content) for layer in manifest.all(media_type))


def _texts(blobs: BlobStore, manifest: Manifest, *media_types: str) -> list[str]:
    layers = manifest.all(*media_types)
    return [blobs.read(layer.content, DOCUMENT_LIMIT).decode("utf-8", "replace") for layer in layers]


def _documents(blobs: BlobStore, manifest: Manifest, media_type: str, type_: type[T]) -> list[T]:
    return [_document(blobs, layer, type_) for layer in manifest.all(media_type)]


def _document(blobs: BlobStore, layer: Layer, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(blobs.read(layer.content, DOCUMENT_LIMIT), type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        kind = layer.media_type.rpartition(".")[2]
        raise StoreError(f"its {kind}, {layer.digest}, cannot be read: {error}") from error
