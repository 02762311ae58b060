"""Models in one file, to carry them where no network reaches: an OCI image layout in a tar archive.

The archive holds `oci-layout`, `index.json` and `blobs/sha256/<hex>`; manifests are blobs too, with their
exact bytes. The index names each model twice, as Docker does: `io.containerd.image.name` has the full name,
`org.opencontainers.image.ref.name` the tag. Source: OCI image specification 1.1, image-layout.md.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, TypeVar

import msgspec

from puna import gojson
from puna.errors import FormatError, InvalidOption, StoreError
from puna.progress import Progress, Report
from puna.store.blobs import BlobStore, read_chunks
from puna.store.digest import Digest
from puna.store.files import open_regular, store_errors
from puna.store.library import Library, Session
from puna.store.manifests import LAYER_TYPE, MANIFEST_LIMIT, Layer, StoredManifest, decode_manifest
from puna.store.name import ModelName, parse_name
from puna.store.tar import BLOCK, Kind, Member, TarReader

_LAYOUT_NAME, _INDEX_NAME = "oci-layout", "index.json"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_INDEX_TYPES = {_INDEX_TYPE, "application/vnd.docker.distribution.manifest.list.v2+json"}
_FULL_NAME = "io.containerd.image.name"
_TAG = "org.opencontainers.image.ref.name"
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})", re.ASCII)
_CLIMBING = re.compile(r"[/\\]|[A-Za-z]:|(?:.*[/\\])?\.\.(?:[/\\].*)?$", re.DOTALL)
_DOCUMENT_LIMIT = 4 << 20
_FOREIGN_LIMIT = 16 << 20
_TRAILER_LIMIT = 1 << 20
_MAX_MODELS = 1000

T = TypeVar("T")


class _Layout(msgspec.Struct, frozen=True, rename="camel"):
    image_layout_version: str


class _Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    media_type: str = ""
    digest: str
    size: int
    annotations: dict[str, str] | None = None


class _Index(msgspec.Struct, frozen=True, rename="camel"):
    manifests: list[_Descriptor]


def export_models(library: Library, names: Sequence[ModelName], file: BinaryIO, report: Report) -> None:
    """Write models into an archive; the same models give the same bytes.

    Args:
        file: written in order, never sought.

    Raises:
        ModelNotFound: the store has no such model; nothing is written then.
        StoreError: one of them is damaged; nothing is written then.
        OSError: the file cannot be written.
    """
    models = sorted({library.manifests.stored(name) for name in names}, key=lambda model: model.name.parts)
    blobs = {layer.content: layer.size for model in models for layer in _checked(library.blobs, model)}
    manifests = {_digest_of(model.content): model.content for model in models}
    total, done = sum(blobs.values()), 0
    _write_document(file, _LAYOUT_NAME, gojson.document({"imageLayoutVersion": "1.0.0"}))
    _write_document(file, _INDEX_NAME, _index(models))
    for digest in sorted({*blobs, *manifests}, key=str):
        if digest in manifests:
            _write_document(file, _blob_name(digest), manifests[digest])
            continue
        file.write(_header(_blob_name(digest), blobs[digest]))
        for chunk in _blob_content(library.blobs, digest, blobs[digest]):
            file.write(chunk)
            done += len(chunk)
            report(Progress("exporting", done, total))
        file.write(bytes(-blobs[digest] % BLOCK))
    file.write(bytes(2 * BLOCK))


def import_models(
    library: Library, file: BinaryIO, report: Report, name: ModelName | None = None
) -> list[ModelName]:
    """Store the models of an archive, all of them or none; their names.

    Args:
        file: read in order, never sought; its members may come in any order.
        name: of a single model; needed where the archive gives only its tag.

    Raises:
        FormatError: this is no archive of models, or it is damaged.
        DigestMismatch: a blob is not what its name says.
        InvalidOption: the models cannot be named so.
        OutOfSpace: they do not fit on the disk.
        StoreError: the disk refuses.
    """
    with library.tidy_session() as session:
        reading = _Import(library.blobs, session, report)
        reading.read(file)
        models = reading.models(name)
        report(Progress("writing manifest"))
        for model, content in models.items():
            session.publish(model, content)
    return [*models]


@dataclass(slots=True)
class _Import:
    """An import under way.

    Attributes:
        documents: the layout's documents that have come, by name.
        stored: the blobs that have come, and are in the store now.
        foreign: bytes of members that were passed over.
    """

    blobs: BlobStore
    session: Session
    report: Report
    documents: dict[str, bytes] = field(default_factory=dict)
    stored: set[Digest] = field(default_factory=set)
    foreign: int = 0

    def read(self, file: BinaryIO) -> None:
        """Store the blobs of an archive and gather its documents."""
        archive = TarReader(file)
        for member in archive:
            name = _checked_name(member)
            if member.kind is Kind.FILE:
                match = _BLOB.fullmatch(name)
                if match:
                    self._store(Digest(match[1]), member.size, archive.content())
                elif name in (_LAYOUT_NAME, _INDEX_NAME):
                    self._keep(name, member.size, archive.content())
                else:
                    self._pass_over(member)
        file.read(_TRAILER_LIMIT)  # so that whoever writes to a pipe gets rid of the padding

    def _store(self, digest: Digest, size: int, content: Iterator[bytes]) -> None:
        if digest in self.stored:
            raise FormatError(f"the archive has blob {digest} twice")
        status = f"importing {digest.short}"
        with self.session.create(size) as writer:
            for chunk in content:
                writer.write(chunk)
                self.report(Progress(status, writer.size, size, str(digest)))
            writer.commit(digest)
        self.stored.add(digest)

    def _keep(self, name: str, size: int, content: Iterator[bytes]) -> None:
        if name in self.documents:
            raise FormatError(f"the archive has {name} twice")
        if size > _DOCUMENT_LIMIT:
            raise FormatError(f"the archive's {name} has {size} bytes; {_DOCUMENT_LIMIT} is the limit")
        self.documents[name] = b"".join(content)

    def _pass_over(self, member: Member) -> None:
        self.foreign += member.size
        if self.foreign > _FOREIGN_LIMIT:
            raise FormatError(f"the archive's {member.name[:100]!r} is no part of a model, and too large")

    def models(self, name: ModelName | None) -> dict[ModelName, bytes]:
        """The manifests of the archive by name, after a look that nothing of them is missing."""
        layout = self._decode(_LAYOUT_NAME, _Layout)
        if not layout.image_layout_version.startswith("1."):
            raise FormatError(f"the archive has layout version {layout.image_layout_version[:100]!r}, not 1")
        descriptors = self._decode(_INDEX_NAME, _Index).manifests
        if not 1 <= len(descriptors) <= _MAX_MODELS:
            raise FormatError(f"the archive's index names {len(descriptors)} models, not 1 to {_MAX_MODELS}")
        if name is not None and len(descriptors) > 1:
            raise InvalidOption(f"the archive holds {len(descriptors)} models; they cannot all be '{name}'")
        named = [(name or _name_of(descriptor), descriptor) for descriptor in descriptors]
        if len({str(model).lower() for model, _ in named}) < len(named):
            raise FormatError("the archive gives two of its models one name")
        return {model: self._manifest(model, descriptor) for model, descriptor in named}

    def _decode(self, name: str, type_: type[T]) -> T:
        if name not in self.documents:
            raise FormatError(f"this is no OCI image layout: there is no {name} in it")
        try:
            return msgspec.json.decode(self.documents[name], type=type_)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise FormatError(f"the archive's {name} is not valid: {error}") from error

    def _manifest(self, model: ModelName, descriptor: _Descriptor) -> bytes:
        """The exact bytes of a model's manifest, whose blobs are all there and pinned."""
        try:
            content = self._manifest_content(descriptor)
            manifest = decode_manifest(content)
            if not any(layer.media_type.startswith(LAYER_TYPE) for layer in manifest.layers):
                raise StoreError("none of its layers is part of a model")
            self.session.pin(*(layer.content for layer in manifest.blobs))
            for layer in manifest.blobs:
                _check_layer(self.blobs, layer)
        except StoreError as error:
            raise FormatError(f"the archive's model '{model}' cannot be stored: {error}") from error
        return content

    def _manifest_content(self, descriptor: _Descriptor) -> bytes:
        digest = Digest.parse(descriptor.digest)
        if descriptor.media_type in _INDEX_TYPES:
            raise StoreError(f"{digest} is a list of images for several machines")
        if digest not in self.stored:
            raise StoreError(f"its manifest {digest} is missing")
        content = self.blobs.read(digest, MANIFEST_LIMIT)
        if len(content) != descriptor.size:
            raise StoreError(f"its manifest is {len(content)} bytes long instead of {descriptor.size}")
        return content


def _checked_name(member: Member) -> str:
    """The member's name without a leading `./`. Raises: FormatError for what has no place in an archive."""
    name = member.name.removeprefix("./")
    if _CLIMBING.match(name):
        raise FormatError(f"the archive has a member named {member.name[:100]!r}, which leads out of it")
    if member.kind not in (Kind.FILE, Kind.FOLDER):
        raise FormatError(f"the archive's member {member.name[:100]!r} is {member.kind.value}")
    return name


def _name_of(descriptor: _Descriptor) -> ModelName:
    annotations = descriptor.annotations or {}
    full, tag = annotations.get(_FULL_NAME), annotations.get(_TAG, "")
    if full is None and ("/" in tag or ":" in tag):
        full = tag
    if full is None:
        raise InvalidOption(f"the archive names its model by the tag {tag[:100]!r} only; give a name for it")
    return parse_name(full)


def _checked(blobs: BlobStore, model: StoredManifest) -> list[Layer]:
    """The model's layers, after a look that each is what it should be."""
    try:
        layers = decode_manifest(model.content).blobs
        for layer in layers:
            _check_layer(blobs, layer)
    except StoreError as error:
        raise StoreError(f"model '{model.name}' is damaged: {error}") from error
    return layers


def _check_layer(blobs: BlobStore, layer: Layer) -> None:
    size = blobs.size(layer.content)
    if size is None:
        raise StoreError(f"blob {layer.digest} is missing")
    if size != layer.size:
        raise StoreError(f"blob {layer.digest} is {size} bytes long instead of {layer.size}")
    if not blobs.verified(layer.content):
        raise StoreError(f"blob {layer.digest} does not have the content that its name says")


def _index(models: Sequence[StoredManifest]) -> bytes:
    descriptors = [
        {
            "mediaType": decode_manifest(model.content).media_type,
            "digest": str(_digest_of(model.content)),
            "size": len(model.content),
            "annotations": {_FULL_NAME: _full_name(model.name), _TAG: model.name.tag},
        }
        for model in models
    ]
    document = {"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": descriptors}
    return gojson.document(document, sort_keys=False)


def _full_name(name: ModelName) -> str:
    return f"{name.host}/{name.namespace}/{name.model}:{name.tag}"


def _blob_content(blobs: BlobStore, digest: Digest, size: int) -> Iterator[bytes]:
    path, left = blobs.path(digest), size
    with store_errors(path), open_regular(path) as file:
        for chunk in read_chunks(file):
            left -= len(chunk)
            yield chunk
    if left:
        raise StoreError(f"{path} was changed while it was read")


def _write_document(file: BinaryIO, name: str, content: bytes) -> None:
    file.write(_header(name, len(content)) + content + bytes(-len(content) % BLOCK))


def _header(name: str, size: int) -> bytes:
    from tarfile import PAX_FORMAT, TarInfo

    member = TarInfo(name)
    member.size = size
    return member.tobuf(PAX_FORMAT)


def _blob_name(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def _digest_of(content: bytes) -> Digest:
    from hashlib import sha256

    return Digest(sha256(content).hexdigest())
