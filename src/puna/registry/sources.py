"""From a model's name to where it comes from and goes to: a registry, or the package index."""

from typing import TYPE_CHECKING

from puna import settings
from puna.cancellation import Cancellation
from puna.errors import AddressRefused, InvalidOption
from puna.progress import Report
from puna.store.library import Library
from puna.store.name import ModelName

if TYPE_CHECKING:
    from puna.registry.access import Access
    from puna.registry.registries import Registry


def pull(
    name: ModelName,
    library: Library,
    report: Report,
    *,
    scheme: str = "",
    insecure: bool = False,
    cancellation: Cancellation | None = None,
) -> None:
    """Fetch the model `name` from wherever its name says.

    Args:
        scheme: what the name was written with; `http` needs the user's leave.
        insecure: the user allows plain http and private addresses for the name's host.
        cancellation: ends the operation, which then raises Interrupted.

    Raises:
        InvalidOption: the configuration is not as it should be.
        AddressRefused: the registry may not be reached, or not without encryption.
        PunaError: as `puna.registry.pypi.fetch` and `puna.registry.pull.pull_model`.
    """
    if name.is_pypi:
        from puna.registry.pypi import fetch

        fetch(name, library, report, cancellation)
        return
    from puna.registry.pull import pull_model

    access = configured_access(cancellation)
    pull_model(name, _registry(name, access, scheme, insecure=insecure), library, report, access)


def push(
    name: ModelName,
    library: Library,
    report: Report,
    *,
    scheme: str = "",
    insecure: bool = False,
    cancellation: Cancellation | None = None,
) -> None:
    """Send the model `name` to the registry that its name says.

    Args:
        scheme: what the name was written with; `http` needs the user's leave.
        insecure: the user allows plain http and private addresses for the name's host.
        cancellation: ends the operation, which then raises Interrupted.

    Raises:
        InvalidOption: the name is one of the package index, or the configuration is not as it should be.
        AddressRefused: the registry may not be reached, or not without encryption.
        PunaError: as `puna.registry.push.push_model`.
    """
    if name.is_pypi:
        raise InvalidOption(
            f"{name} cannot be pushed: the package index is no registry; copy it to another name"
        )
    from puna.registry.push import push_model

    access = configured_access(cancellation)
    push_model(name, _registry(name, access, scheme, insecure=insecure), library, report, access)


def check_reachable(name: ModelName, *, scheme: str = "") -> None:
    """Check what can be said of a name's registry without asking anybody.

    Raises:
        AddressRefused: it may not be reached, or not without encryption.
        InvalidOption: the configuration is not as it should be.
    """
    from puna.registry.network import check_name

    if not name.is_pypi:
        registry = _registry(name, configured_access(), scheme, insecure=False)
        check_name(registry.origin.host, private=registry.private)


def configured_hosts() -> frozenset[str]:
    """The hosts of the registries that the user has configured. Raises: InvalidOption."""
    from puna.registry.registries import read_registries

    return frozenset(read_registries(settings.configuration()))


def configured_access(cancellation: Cancellation | None = None) -> "Access":
    """The way to registries that the user has configured. Raises: InvalidOption."""
    from puna.registry.access import Access
    from puna.registry.client import Identity
    from puna.registry.credentials import DockerConfig
    from puna.registry.download import Transfer
    from puna.registry.patience import Patience
    from puna.registry.registries import read_registries

    identity = Identity(DockerConfig(settings.docker_folder()).find, settings.ollama_folder())
    transfer = Transfer(streams=settings.transfer_streams())
    patience = Patience(cancellation=cancellation or Cancellation())
    registries = read_registries(settings.configuration())
    return Access(identity, registries=registries, patience=patience, transfer=transfer)


def _registry(name: ModelName, access: "Access", scheme: str, *, insecure: bool) -> "Registry":
    from puna.registry.registries import registry_for

    registry = registry_for(name.host, access.registries, insecure=insecure)
    if scheme == "http" and not registry.plain_http:
        raise AddressRefused(
            f"insecure protocol http: to speak it to {name.host}, use --insecure, or set plain_http = true"
            " for it in the configuration"
        )
    return registry
