"""Manifests: `manifests/<host>/<namespace>/<model>/<tag>`, one JSON document a model.

The document is a Docker image manifest, schema 2, with Ollama's layer media types. It is replaced by renaming
a finished file, so a reader finds the old or the new one. Every digest in it is validated when it is read.
A manifest that was pulled keeps the bytes that the registry sent.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from puna.errors import InvalidOption, ModelNotFound, StoreError
from puna.store.digest import Digest, hex_of
from puna.store.files import (
    make_folders,
    random_digits,
    read_regular,
    store_errors,
    sync_folder,
    write_synced,
)
from puna.store.name import ModelName

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.ollama.image."
MODEL_LAYER = LAYER_TYPE + "model"
PROJECTOR_LAYER = LAYER_TYPE + "projector"
ADAPTER_LAYER = LAYER_TYPE + "adapter"
TEMPLATE_LAYER = LAYER_TYPE + "template"
PROMPT_LAYER = LAYER_TYPE + "prompt"
SYSTEM_LAYER = LAYER_TYPE + "system"
PARAMETERS_LAYER = LAYER_TYPE + "params"
MESSAGES_LAYER = LAYER_TYPE + "messages"
LICENSE_LAYER = LAYER_TYPE + "license"
TENSOR_LAYER = LAYER_TYPE + "tensor"

MANIFEST_LIMIT = 4 << 20
_MAX_LAYERS = 10_000
_MAX_DEPTH = 8
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp", re.ASCII)
# How many bytes Go's JSON decoder has read when it has to ask for more: see `model_digest`.
_GO_BUFFERS = frozenset(512 * (2**n - 1) for n in range(1, 14))


class Layer(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One blob of a model: media type, digest text, size in bytes, and origin (a model or file) if known."""

    media_type: str
    digest: str
    size: int
    from_: str = msgspec.field(default="", name="from")
    name: str = ""

    def __post_init__(self) -> None:
        hex_of(self.digest)
        if not 0 <= self.size < 1 << 63:
            raise StoreError(f"layer {self.digest} has the size {self.size}")

    @property
    def content(self) -> Digest:
        """The digest, parsed."""
        return Digest.parse(self.digest)


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The blobs a model is made of. The media type may be left out of the document, as OCI allows."""

    schema_version: int
    media_type: str = ""
    config: Layer
    layers: list[Layer]

    @property
    def blobs(self) -> list[Layer]:
        """Every blob there is, the config last."""
        return [*self.layers, self.config]

    @property
    def size(self) -> int:
        """Bytes of all blobs together."""
        return sum(layer.size for layer in self.blobs)

    def first(self, media_type: str) -> Layer | None:
        """The layer of that type which counts (the last one, as in Ollama); None when there is none."""
        return next((layer for layer in reversed(self.layers) if layer.media_type == media_type), None)

    def all(self, *media_types: str) -> list[Layer]:
        """The layers of these types, in order."""
        return [layer for layer in self.layers if layer.media_type in media_types]


def image_manifest(config: Layer, layers: Iterable[Layer]) -> Manifest:
    """A schema 2 manifest of these blobs."""
    return Manifest(schema_version=2, media_type=MANIFEST_TYPE, config=config, layers=list(layers))


def encode_manifest(manifest: Manifest) -> bytes:
    """The document as Ollama writes it for a model made here, with a newline at the end."""
    from puna import gojson  # readers are spared it

    return gojson.document(msgspec.to_builtins(manifest), sort_keys=False)


def decode_manifest(content: bytes) -> Manifest:
    """The manifest in a document.

    Raises:
        StoreError: it is not JSON, lacks a field, or has a digest or a size that cannot be.
    """
    if len(content) > MANIFEST_LIMIT:
        raise StoreError(f"it is longer than {MANIFEST_LIMIT} bytes")
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(str(error)) from error
    if len(manifest.layers) > _MAX_LAYERS:
        raise StoreError(f"it has {len(manifest.layers)} layers")
    return manifest


def model_digest(content: bytes) -> str:
    """The digest that Ollama gives a model: the SHA-256 of its manifest's file, 64 hexadecimal digits.

    Ollama hashes what its JSON decoder has read, and that leaves out the newline at the end of a file when
    the document fills the decoder's buffer to the last byte.
    """
    if content.endswith(b"\n") and len(content) - 1 in _GO_BUFFERS:
        content = content[:-1]
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest's file.

    Attributes:
        modified: seconds since 1970.
    """

    name: ModelName
    content: bytes
    modified: float

    def manifest(self) -> Manifest:
        """What the file says. Raises: StoreError when it is damaged; names the model."""
        try:
            return decode_manifest(self.content)
        except StoreError as error:
            raise StoreError(f"model '{self.name}' is damaged: {error}") from error


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
        return _read(self.existing(name))

    def stored(self, name: ModelName) -> StoredManifest:
        """The model's manifest as it stands in its file, under the name in the store's own spelling.

        Raises:
            ModelNotFound: the store has no such model.
            StoreError: the file cannot be read.
        """
        path = self.existing(name)
        content, info = read_regular(str(path), MANIFEST_LIMIT)
        return StoredManifest(ModelName(*path.relative_to(self.folder).parts), content, info.st_mtime)

    def existing(self, name: ModelName) -> Path:
        """The manifest's file, found without regard to case. Raises: ModelNotFound."""
        path = self.find(name)
        if path is None:
            raise ModelNotFound(f"model '{name}' not found")
        return path

    def find(self, name: ModelName) -> Path | None:
        """The manifest's file, found without regard to case; None when the store has no such model.

        Raises:
            StoreError: a folder cannot be read.
        """
        exact = self.folder.joinpath(*name.parts)
        if os.path.isfile(exact):
            return exact
        with store_errors(self.folder):
            return next(_same_fold(self.folder, name.parts), None)

    def __iter__(self) -> Iterator[StoredManifest]:
        """Every manifest under a legal name; one that vanishes or cannot be read is passed over."""
        for parts, path in _walk(self.folder):
            with suppress(InvalidOption, StoreError):
                content, info = read_regular(path, MANIFEST_LIMIT)
                yield StoredManifest(ModelName(*parts), content, info.st_mtime)

    def referenced(self) -> set[Digest]:
        """The digests that any manifest names.

        Raises:
            StoreError: a manifest cannot be read, so that nobody can tell what it names.
        """
        return {layer.content for path in _files(self.folder) for layer in _read(path).blobs}

    def write(self, name: ModelName, content: bytes) -> None:
        """Make `name` mean the document. Raises: StoreError."""
        path = self.find(name) or self.folder.joinpath(*name.parts)
        # At the root of the tree, where no reader of this layout looks for manifests.
        temporary = self.folder / f".{random_digits()}.tmp"
        with store_errors(path):
            try:
                make_folders(path.parent)
                write_synced(temporary, content)
                os.replace(temporary, path)
                sync_folder(path.parent)
            finally:
                with suppress(FileNotFoundError):
                    temporary.unlink()

    def remove(self, name: ModelName) -> None:
        """Forget the model, and the folders that it leaves empty. Raises: ModelNotFound, StoreError."""
        path = self.existing(name)
        with store_errors(path):
            path.unlink()
            sync_folder(path.parent)
        with suppress(OSError):  # the first that is not empty ends it
            for folder in (path.parent, path.parent.parent, path.parent.parent.parent):
                folder.rmdir()

    def remains(self) -> list[Path]:
        """Files that an interrupted write has left."""
        return [path for path in self.folder.glob(".*") if _TEMPORARY.fullmatch(path.name)]

    def remove_empty_folders(self) -> int:
        """Remove folders in which there is nothing; how many there were. Raises: StoreError."""
        removed = 0
        for folder, _, _ in os.walk(self.folder, topdown=False):
            if Path(folder) != self.folder:
                with suppress(OSError):  # it is not empty
                    os.rmdir(folder)
                    removed += 1
        return removed


def _read(path: Path) -> Manifest:
    content, _ = read_regular(str(path), MANIFEST_LIMIT)
    try:
        return decode_manifest(content)
    except StoreError as error:
        raise StoreError(f"{path} is not a valid manifest: {error}") from error


def _files(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Every visible file under `folder`, at any depth that a store can have."""
    if depth > _MAX_DEPTH:
        raise StoreError(f"{folder} lies too deep for a manifest; is there a link that leads back?")
    try:
        entries = list(folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror or error}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if os.path.isdir(entry):
            yield from _files(entry, depth + 1)
        else:
            yield entry


def _walk(root: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is visible exactly four levels down, with the names on the way; in order of names."""
    stack: list[tuple[tuple[str, ...], str]] = [((), str(root))]
    while stack:
        parts, folder = stack.pop()
        visible = _visible(folder)
        if len(parts) == 3:
            yield from (((*parts, e.name), e.path) for e in visible)
        else:
            stack += [((*parts, e.name), e.path) for e in reversed(visible) if os.path.isdir(e)]


def _visible(folder: str) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden, by name; nothing where it has gone. Raises: StoreError."""
    with store_errors(Path(folder)), suppress(FileNotFoundError), os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    return []


def _same_fold(folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """The files under `folder` whose path is `parts` but for the case of letters, in order of names."""
    if not parts:
        if os.path.isfile(folder):
            yield folder
    elif os.path.isdir(folder):
        for entry in sorted(folder.iterdir()):
            if entry.name.lower() == parts[0].lower():
                yield from _same_fold(entry, parts[1:])
