"""A model from the store to a registry."""

import hashlib
from contextlib import ExitStack
from pathlib import Path

from puna.errors import InvalidOption, PunaError, StoreError
from puna.progress import Progress, Report
from puna.registry.access import Access
from puna.registry.client import Repository
from puna.registry.registries import Registry
from puna.registry.upload import Blob, upload_blob
from puna.store.digest import Digest
from puna.store.library import Library
from puna.store.manifests import Layer
from puna.store.name import ModelName, parse_name


def push_model(name: ModelName, registry: Registry, library: Library, report: Report, access: Access) -> None:
    """Send the model `name`, so that the registry has what the store has.

    Args:
        registry: the one at the name's host, and what the user allows it.
        report: told of every step, in Ollama's words.

    Raises:
        ModelNotFound: the store has no such model.
        StoreError: a blob of it is missing or damaged; nothing has been sent then.
        Unauthorized: the registry wants other credentials than there are.
        FetchError: the registry does not take it.
    """
    report(Progress("retrieving manifest"))
    with ExitStack() as stack:
        try:
            library.manifests.existing(name)  # before anything is written into a store without it
            session = stack.enter_context(library.session())
            stored = session.keep(name)
            layers = list({layer.digest: layer for layer in stored.manifest().blobs}.values())
            for layer in layers:
                _check(layer, library)
        except PunaError:
            report(Progress("couldn't retrieve manifest"))
            raise
        repository = stack.enter_context(access.repository(registry, stored.name))
        for layer in layers:
            _send(layer, name, repository, library, report, access)
        report(Progress("pushing manifest"))
        repository.put_manifest(stored.content, stored.manifest().media_type)
    report(Progress("success"))


def _check(layer: Layer, library: Library) -> None:
    if library.blobs.size(layer.content) != layer.size or not library.blobs.verified(layer.content):
        raise StoreError(f"blob {layer.digest} is missing or damaged; `puna verify` tells more")


def _send(
    layer: Layer, name: ModelName, repository: Repository, library: Library, report: Report, access: Access
) -> None:
    digest = layer.content
    most = 0

    def sent(count: int) -> None:
        nonlocal most
        most = max(most, count)
        report(Progress(f"pushing {digest.short}", most, layer.size, layer.digest))

    blob = Blob(
        digest=digest,
        size=layer.size,
        path=library.blobs.path(digest),
        mount_from=_origin(layer, name),
        note=_note_path(library, repository, digest),
    )
    sent(0)
    upload_blob(repository, blob, sent, access.chunk, access.patience)
    sent(layer.size)


def _origin(layer: Layer, name: ModelName) -> str:
    """The repository that the layer comes from, if it is of the same registry; empty if not."""
    try:
        source = parse_name(layer.from_)
    except InvalidOption:
        return ""
    same = (source.namespace, source.model) == (name.namespace, name.model)
    return f"{source.namespace}/{source.model}" if source.host == name.host and not same else ""


def _note_path(library: Library, repository: Repository, digest: Digest) -> Path:
    target = f"{repository.registry.origin}/{repository.path}/{digest}"
    return library.uploads / hashlib.sha256(target.encode()).hexdigest()
