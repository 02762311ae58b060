"""Manifests: `manifests/<host>/<namespace>/<model>/<tag>`, one JSON document a model.

The document is a Docker image manifest, schema 2, with Ollama's layer media types. It is written only when
every blob it names is present, by renaming a finished file; every digest in it is validated when it is read.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from puna.errors import ModelNotFound, StoreError
from puna.store.blobs import BlobStore
from puna.store.digest import Digest
from puna.store.name import ModelName

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
_LAYER_TYPE = "application/vnd.ollama.image."
MODEL_LAYER = _LAYER_TYPE + "model"
PROJECTOR_LAYER = _LAYER_TYPE + "projector"
ADAPTER_LAYER = _LAYER_TYPE + "adapter"
LICENSE_LAYER = _LAYER_TYPE + "license"

_MANIFEST_LIMIT = 4 << 20


class Layer(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One blob of a model: media type, digest text, size in bytes, and origin (a model or file) if known."""

    media_type: str
    digest: str
    size: int
    from_: str = msgspec.field(default="", name="from")
    name: str = ""

    def __post_init__(self) -> None:
        Digest.parse(self.digest)
        if self.size < 0:
            raise StoreError(f"layer {self.digest} has the size {self.size}")

    @property
    def content(self) -> Digest:
        """The digest, parsed."""
        return Digest.parse(self.digest)


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """The blobs a model is made of."""

    schema_version: int
    media_type: str
    config: Layer
    layers: list[Layer]

    def first(self, media_type: str) -> Layer | None:
        """The layer of that type which counts (the last one, as in Ollama); None when there is none."""
        return next((layer for layer in reversed(self.layers) if layer.media_type == media_type), None)


def image_manifest(config: Layer, layers: list[Layer]) -> Manifest:
    """A schema 2 manifest of these blobs."""
    return Manifest(schema_version=2, media_type=MANIFEST_TYPE, config=config, layers=layers)


class ManifestStore:
    """The manifests of one store.

    Attributes:
        folder: where they lie; made with the first write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: ModelName) -> Manifest:
        """The model's manifest.

        Raises:
            ModelNotFound: the store has no such model.
            StoreError: the manifest is damaged.
        """
        path = self.find(name)
        if path is None:
            raise ModelNotFound(f"model '{name}' not found")
        try:
            with path.open("rb") as file:
                content = file.read(_MANIFEST_LIMIT + 1)
            if len(content) > _MANIFEST_LIMIT:
                raise StoreError(f"{path} is too long for a manifest")
            return msgspec.json.decode(content, type=Manifest)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}") from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise StoreError(f"{path} is not a valid manifest: {error}") from error

    def find(self, name: ModelName) -> Path | None:
        """The manifest's file, found without regard to case; None when the store has no such model."""
        exact = self.folder.joinpath(*name.parts)
        if exact.is_file():
            return exact
        path: Path | None = self.folder
        for part in name.parts:
            path = _same_fold(path, part) if path is not None else None
        return path if path is not None and path.is_file() else None

    def write(self, name: ModelName, manifest: Manifest, blobs: BlobStore) -> None:
        """Make `name` mean `manifest`.

        Raises:
            StoreError: a blob it names is missing or has another size, or the disk refuses.
        """
        for layer in (manifest.config, *manifest.layers):
            if blobs.size(layer.content) != layer.size:
                raise StoreError(f"model '{name}' cannot be stored: its blob {layer.digest} is not complete")
        path = self.find(name) or self.folder.joinpath(*name.parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._temporary() as temporary:
                _write_synced(temporary, msgspec.json.encode(manifest) + b"\n")
                os.replace(temporary, path)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}") from error

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        # At the root of the tree, where no reader of this layout looks for manifests.
        path = self.folder / f".{secrets.token_hex(8)}.tmp"
        try:
            yield path
        finally:
            with suppress(FileNotFoundError):
                path.unlink()


def _same_fold(folder: Path, part: str) -> Path | None:
    if not folder.is_dir():
        return None
    matches = sorted(entry for entry in folder.iterdir() if entry.name.lower() == part.lower())
    return matches[0] if matches else None


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
