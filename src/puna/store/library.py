"""One model store: blobs and manifests under one folder, which Ollama may share."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from puna.errors import StoreError, UnsupportedModel
from puna.store.blobs import BlobStore
from puna.store.manifests import ADAPTER_LAYER, MODEL_LAYER, ManifestStore
from puna.store.name import ModelName


@dataclass(frozen=True, slots=True)
class Library:
    """The store under `root`. Nothing is made on disk before the first write."""

    root: Path

    @property
    def blobs(self) -> BlobStore:
        """The content-addressed files."""
        return BlobStore(self.root / "blobs")

    @property
    def manifests(self) -> ManifestStore:
        """The models by name."""
        return ManifestStore(self.root / "manifests")

    def model_file(self, name: ModelName) -> Path:
        """The GGUF file of the model `name`.

        Raises:
            ModelNotFound: the store has no such model.
            UnsupportedModel: the model has no GGUF file, or needs an adapter besides.
            StoreError: its manifest or its file is damaged.
        """
        manifest = self.manifests.read(name)
        layer = manifest.first(MODEL_LAYER)
        if layer is None:
            raise UnsupportedModel(f"model '{name}' has no GGUF file")
        if manifest.first(ADAPTER_LAYER) is not None:
            raise UnsupportedModel(f"model '{name}' has an adapter layer, which is not supported")
        size = self.blobs.size(layer.content)
        if size != layer.size:
            state = "missing" if size is None else f"{size} bytes long instead of {layer.size}"
            raise StoreError(
                f"model '{name}' is damaged: its file {self.blobs.path(layer.content)} is {state}"
            )
        return self.blobs.path(layer.content)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder on the store's own file system for the time of a fetch.

        It goes with the block, and so do the store's folders when they were made in it and stayed empty.

        Raises:
            StoreError: the store's folder cannot be made or written.
        """
        folders = (self.blobs.folder, self.root, *self.root.parents)
        missing = [folder for folder in folders if not folder.exists()]
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            temporary = tempfile.TemporaryDirectory(prefix=".fetch-", dir=self.root)
        except OSError as error:
            raise StoreError(f"{self.root}: {error.strerror or error}") from error
        try:
            with temporary as folder:
                yield Path(folder)
        finally:
            with suppress(OSError):
                for created in missing:
                    if created.exists():
                        created.rmdir()
