"""A model from a registry into the store."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from puna.errors import FetchError, StoreError, UnsupportedModel
from puna.progress import Progress, Report
from puna.registry.access import Access
from puna.registry.client import Repository
from puna.registry.download import download_blob
from puna.registry.registries import Registry, mirrors_of
from puna.store.library import Library, Session
from puna.store.manifests import TENSOR_LAYER, Layer, decode_manifest
from puna.store.name import ModelName


def pull_model(name: ModelName, registry: Registry, library: Library, report: Report, access: Access) -> None:
    """Fetch the model `name`; when this returns the store has it, whole and verified.

    Args:
        registry: the one at the name's host, and what the user allows it.
        report: told of every step, in Ollama's words.

    Raises:
        ModelNotFound: the registry has no such model.
        UnsupportedModel: it is of a kind that cannot be run.
        DigestMismatch: other content is sent than the manifest says.
        OutOfSpace: the disk has no room for it.
        FetchError: it cannot be fetched otherwise.
        StoreError: the store cannot be written.
    """
    with ExitStack() as stack:
        registries = [*mirrors_of(registry, access.registries), registry]
        repositories = [stack.enter_context(access.repository(each, name)) for each in registries]
        report(Progress("pulling manifest"))
        with _about_the_manifest():
            content, sources = _manifest(repositories)
            layers = checked_layers(content, registry.host)
        with library.session() as session:
            session.pin(*(layer.content for layer in layers))
            library.blobs.make_room(sum(_lacking(layer, library) for layer in layers))
            for layer in layers:
                _fetch(layer, sources, library, session, report, access)
            report(Progress("verifying sha256 digest"))
            report(Progress("writing manifest"))
            removal = session.publish(name, content)
            if removal.kept:
                report(Progress(f"couldn't remove unused layers: {removal.kept}"))
            elif removal.blobs:
                report(Progress("removing unused layers"))
    report(Progress("success"))


def checked_layers(content: bytes, host: str) -> list[Layer]:
    """The blobs of a manifest that a registry sent, each once, when it describes a model that can be stored.

    Raises:
        FetchError: it does not.
        UnsupportedModel: it is a model in single tensors.
    """
    try:
        manifest = decode_manifest(content)
    except StoreError as error:
        raise FetchError(f"{host} sends an invalid manifest: {error}") from error
    if not manifest.layers:
        raise FetchError(f"{host} sends a manifest without layers")
    if manifest.first(TENSOR_LAYER) is not None:
        raise UnsupportedModel("this model requires MLX support, but the MLX runtime is not available")
    layers: dict[str, Layer] = {}
    for layer in manifest.blobs:
        if layers.setdefault(layer.digest, layer).size != layer.size:
            raise FetchError(f"{host} sends a manifest with two sizes for the blob {layer.digest}")
    return list(layers.values())


def _manifest(repositories: list[Repository]) -> tuple[bytes, list[Repository]]:
    """The manifest from the first repository that has it, and from where its blobs may come."""
    for position, repository in enumerate(repositories[:-1]):
        try:
            return repository.manifest(), repositories[position:]
        except FetchError:
            continue
    return repositories[-1].manifest(), repositories[-1:]


@contextmanager
def _about_the_manifest() -> Iterator[None]:
    try:
        yield
    except FetchError as error:
        # Of the same kind, since callers tell a model that is not there from a registry that is not.
        error.args = (f"pull model manifest: {error}",)
        raise


def _lacking(layer: Layer, library: Library) -> int:
    return 0 if library.blobs.size(layer.content) == layer.size else layer.size


def _fetch(
    layer: Layer,
    sources: list[Repository],
    library: Library,
    session: Session,
    report: Report,
    access: Access,
) -> None:
    digest = layer.content
    most = 0

    def received(count: int) -> None:
        nonlocal most
        most = max(most, count)
        report(Progress(f"pulling {digest.short}", most, layer.size, str(digest)))

    received(0)
    download_blob(
        digest, layer.size, sources, library.blobs, session, received, access.transfer, access.patience
    )
    received(layer.size)
