"""One model store: blobs and manifests under one folder, which Ollama may share.

Readers take no lock: what they see is whole. Whoever changes which blobs are needed, or deletes some, holds
the store's lock for that moment; `puna.store.pins` tells what protects a blob before its manifest exists.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from puna.errors import PunaError, StoreError
from puna.store.blobs import BlobStore, BlobWriter, Seen, write_all
from puna.store.digest import Digest
from puna.store.files import store_errors
from puna.store.locks import locked, try_lock
from puna.store.manifests import (
    Layer,
    Manifest,
    ManifestStore,
    StoredManifest,
    decode_manifest,
    encode_manifest,
    model_digest,
)
from puna.store.name import ModelName
from puna.store.pins import add_pins, live_pins, pin_file
from puna.store.remains import LOCK_NAME, changed_before, remove_remains

_STATE = ".puna"
_SCRATCH_PREFIX = "scratch-"


@dataclass(frozen=True, slots=True)
class Removal:
    """What a deletion did.

    Attributes:
        blobs: how many blobs were deleted.
        size: their bytes, and those of other files that were deleted.
        files: how many other files were deleted: remains of interrupted operations.
        kept: why unused blobs were not deleted; empty when they were.
    """

    blobs: int = 0
    size: int = 0
    files: int = 0
    kept: str = ""


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A line of the list of models.

    Attributes:
        digest: the model's, 64 hexadecimal digits.
        size: bytes of its blobs together.
        modified: seconds since 1970.
    """

    name: ModelName
    digest: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Listing:
    """The models of a store, the last changed first, and what is wrong with the manifests of others."""

    models: list[ListedModel]
    damaged: list[tuple[ModelName, str]]


@dataclass(frozen=True, slots=True)
class Library:
    """The store under `root`. Nothing is made on disk before the first write.

    Attributes:
        keep_unused: leave blobs that no model uses any more to `prune`.
    """

    root: Path
    keep_unused: bool = False

    @property
    def blobs(self) -> BlobStore:
        """The content-addressed files."""
        return BlobStore(self.root / "blobs", self._state / "verified")

    @property
    def manifests(self) -> ManifestStore:
        """The models by name."""
        return ManifestStore(self.root / "manifests")

    @property
    def uploads(self) -> Path:
        """The folder of notes on uploads that have begun."""
        return self._state / "uploads"

    @property
    def conversions(self) -> Path:
        """The folder of notes on what files became GGUF files; each can be lost."""
        return self._state / "conversions"

    def listing(self) -> Listing:
        """The models there are. Raises: StoreError when the store cannot be read."""
        models: list[ListedModel] = []
        damaged: list[tuple[ModelName, str]] = []
        for stored in self.manifests:
            try:
                size = decode_manifest(stored.content).size
            except StoreError as error:
                damaged.append((stored.name, str(error)))
            else:
                models.append(ListedModel(stored.name, model_digest(stored.content), size, stored.modified))
        return Listing(sorted(models, key=lambda model: -int(model.modified)), damaged)

    @contextmanager
    def session(self) -> Iterator["Session"]:
        """An operation that writes: what it finds or writes is not deleted while it runs.

        Raises:
            StoreError: the store cannot be written.
        """
        with self._no_empty_folders(), ExitStack() as stack:
            with self._lock():
                file = stack.enter_context(pin_file(self._pins))
            yield Session(self, file)

    @contextmanager
    def tidy_session(self) -> Iterator["Session"]:
        """A session after which nothing is left that no model uses, but what was there and unused before.

        Raises:
            StoreError: the store cannot be written.
        """
        with self._no_empty_folders():
            before, pinned = self._spared(), frozenset[Digest]()
            try:
                with self.session() as session:
                    try:
                        yield session
                    finally:
                        pinned = session.pinned
            finally:
                # What cannot be deleted is left to `prune`; it must not hide what went wrong in the block.
                with suppress(StoreError):
                    if pinned - before:
                        with self._lock():
                            self._collect(pinned - before)

    def _spared(self) -> set[Digest]:
        """The blobs that must stay, used or not, after an operation that begins now."""
        present = {*self.blobs}
        if self.keep_unused:
            return present
        try:
            return present - self.manifests.referenced()
        except StoreError:
            return present

    def copy(self, source: ModelName, target: ModelName) -> Removal:
        """Make `target` mean what `source` means now; what only the former `target` used is deleted.

        Raises:
            ModelNotFound: there is no model `source`.
            StoreError: it is damaged, or the disk refuses.
        """
        with self.session() as session:
            stored = session.keep(source)
            if self.manifests.find(target) == self.manifests.find(source):
                return Removal()
            return session.publish(target, stored.content)

    def delete(self, name: ModelName) -> Removal:
        """Forget the model and delete what only it used. A model with a damaged manifest can be deleted too.

        Raises:
            ModelNotFound: there is no such model.
            StoreError: the disk refuses.
        """
        self.manifests.existing(name)  # the lock would make a folder where there is no store
        with self._lock():
            before = self._digests(name)
            self.manifests.remove(name)
            return self._collect(before)

    def discard(self, digests: Iterable[Digest]) -> Removal:
        """Delete those of these blobs that no model uses and no running operation relies on.

        Raises:
            StoreError: the disk refuses.
        """
        if not self.root.is_dir():
            return Removal()
        with self._lock():
            return self._collect(digests)

    def prune(self, grace: float) -> Removal:
        """Delete blobs that no model uses, remains of interrupted operations, and empty folders.

        Args:
            grace: seconds for which what was last changed since then is left alone.

        Raises:
            StoreError: the disk refuses.
        """
        if not self.root.is_dir():
            return Removal()
        with self._lock():
            before = time.time() - grace
            done = self._collect(self.blobs.older_than(before))
            remains = [*self.blobs.remains(), *self.manifests.remains(), *self._own_remains()]
            sizes = [remove_remains(path) for path in remains if changed_before(path, before)]
            self.manifests.remove_empty_folders()
        removed = [size for size in sizes if size is not None]
        return Removal(done.blobs, done.size + sum(removed), len(removed), done.kept)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder on the store's own file system for the time of the block.

        Raises:
            StoreError: the store's folder cannot be made or written.
        """
        import tempfile  # it takes longer to import than most commands need

        with self._no_empty_folders(), ExitStack() as stack:
            with self._lock(), store_errors(self.root):
                temporary = tempfile.TemporaryDirectory(prefix=_SCRATCH_PREFIX, dir=self._state)
                folder = Path(stack.enter_context(temporary))
                # So that `prune` sees that somebody is at work here.
                try_lock(stack.enter_context((folder / LOCK_NAME).open("xb")))
            yield folder

    @contextmanager
    def _no_empty_folders(self) -> Iterator[None]:
        """Takes away the store if it was made in the block and nothing was put into it."""
        missing = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        try:
            yield
        finally:
            if missing and self._state.is_dir():
                with suppress(OSError, StoreError), self._lock():
                    _remove_empty(self._pins, self.blobs.records, self.blobs.folder, self.manifests.folder)
                _remove_empty(self._state, *missing)

    @property
    def responses(self) -> Path:
        """The file of answers that are kept for their clients."""
        return self._state / "responses.sqlite3"

    @property
    def _state(self) -> Path:
        return self.root / _STATE

    @property
    def _pins(self) -> Path:
        return self._state / "pins"

    def _own_remains(self) -> list[Path]:
        return [
            *self._state.glob(_SCRATCH_PREFIX + "*"),
            *self.uploads.glob("*"),
            *self.conversions.glob("*"),
        ]

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with locked(self._state / "lock"):
            yield

    def _replace(self, name: ModelName, content: bytes, blobs: list[Layer]) -> Removal:
        with self._lock():
            for layer in blobs:
                if self.blobs.size(layer.content) != layer.size:
                    raise StoreError(
                        f"model '{name}' cannot be stored: its blob {layer.digest} is not complete"
                    )
            unused = self._digests(name) - {layer.content for layer in blobs}
            self.manifests.write(name, content)
            return self._collect(unused) if unused and not self.keep_unused else Removal()

    def _digests(self, name: ModelName) -> set[Digest]:
        """What the model's manifest names; nothing where there is none or it is damaged."""
        try:
            return {layer.content for layer in self.manifests.read(name).blobs}
        except PunaError:
            return set()

    def _collect(self, candidates: Iterable[Digest]) -> Removal:
        """Delete those blobs that no manifest names and no running operation has pinned."""
        try:
            needed = self.manifests.referenced() | live_pins(self._pins)
        except StoreError as error:
            return Removal(kept=f"unused blobs are kept, since nobody can tell which they are: {error}")
        removed = [(digest, self.blobs.remove(digest)) for digest in {*candidates} - needed]
        return Removal(len(removed), sum(size for _, size in removed))


def _remove_empty(*folders: Path) -> None:
    """Remove these folders up to the first that is in use: whoever uses it may be about to use the others."""
    with suppress(OSError):
        for folder in folders:
            with suppress(FileNotFoundError):  # it was never made
                folder.rmdir()


class Session:
    """Writes blobs and a manifest; made by `Library.session`. Several threads may use it."""

    def __init__(self, library: Library, pins: BinaryIO) -> None:
        self._library = library
        self._pins = pins
        self._pinned: set[Digest] = set()

    def pin(self, *digests: Digest) -> None:
        """Keep these blobs, whether they exist already or not, until the session ends. Raises: StoreError."""
        new = {*digests} - self._pinned
        if new:
            with self._library._lock():
                add_pins(self._pins, new)
            self._pinned |= new

    def keep(self, name: ModelName) -> StoredManifest:
        """The model `name` as it is now; its blobs are kept until the session ends.

        Raises:
            ModelNotFound: there is none, be it that another has just deleted it.
            StoreError: its manifest is damaged.
        """
        manifests = self._library.manifests
        stored = manifests.stored(name)
        while True:
            self.pin(*(layer.content for layer in stored.manifest().blobs))
            # Before they were pinned, another may have replaced the model and deleted them.
            now = manifests.stored(name)
            if now.content == stored.content:
                return now
            stored = now

    @property
    def pinned(self) -> frozenset[Digest]:
        """What is kept until the session ends; all that it has written is."""
        return frozenset(self._pinned)

    def create(self, size: int = 0) -> BlobWriter:
        """A writer for a new blob of about `size` bytes. Raises: OutOfSpace, StoreError."""
        return self._library.blobs.create(size, self.pin)

    def add(self, media_type: str, chunks: Iterable[bytes], *, from_: str = "") -> Layer:
        """Store the content of `chunks`; the layer that names it. Raises: OutOfSpace, StoreError."""
        with self.create() as writer:
            digest = write_all(writer, chunks)
            return Layer(media_type, str(digest), writer.size, from_=from_)

    def adopt(self, media_type: str, path: Path, *, from_: str = "", seen: Seen | None = None) -> Layer:
        """Store a file of this disk, if it can be without copying it; the layer that names it.

        Args:
            seen: told the number of bytes after each piece that was hashed.

        Raises:
            OutOfSpace: it had to be copied, and there is no room.
            StoreError: it is no regular file, cannot be read, or changes while it is read.
        """
        digest = self._library.blobs.adopt(path, self.pin, seen)
        return Layer(media_type, str(digest), self._library.blobs.size(digest) or 0, from_=from_)

    def place(self, temporary: Path, digest: Digest) -> None:
        """Give a finished file among the blobs, hashed and on the disk, its name. Raises: StoreError."""
        self._library.blobs.place(temporary, digest, self.pin)

    def publish(self, name: ModelName, manifest: Manifest | bytes) -> Removal:
        """Make `name` mean the manifest; what only its former one used is deleted, unless that is kept.

        Args:
            manifest: bytes are stored as they are.

        Raises:
            StoreError: a blob that it names is missing or has another size, or the disk refuses.
        """
        content = manifest if isinstance(manifest, bytes) else encode_manifest(manifest)
        blobs = decode_manifest(content).blobs
        self.pin(*(layer.content for layer in blobs))
        return self._library._replace(name, content, blobs)
