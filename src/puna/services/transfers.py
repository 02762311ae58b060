"""Pulls and pushes for callers who are not the machine's user: the server's configuration is the limit.

Who sits at the machine may say `--insecure`. A caller over the network may not: where plain http or a private
address is to be spoken to, the configuration has a table for that registry, which says so. What is pushed
goes to Ollama's registry, or to one that has a table.
"""

from puna.cancellation import Cancellation
from puna.errors import AddressRefused
from puna.progress import Report
from puna.registry import sources
from puna.services.template_check import pull_model
from puna.store.library import Library
from puna.store.name import DEFAULT_HOST, ModelName


def pull(
    name: ModelName,
    library: Library,
    report: Report,
    cancellation: Cancellation,
    *,
    scheme: str = "",
    insecure: bool = False,
) -> None:
    """Fetch a model.

    Args:
        scheme: what the name was written with.
        insecure: the caller wants plain http and private addresses.

    Raises:
        AddressRefused: the caller wants what the configuration does not allow.
        PunaError: as `puna.registry.sources.pull`.
    """
    if insecure and not name.is_pypi:
        _check_configured(name, "insecure connections need")
    sources.check_reachable(name, scheme=scheme)
    pull_model(name, library, report, scheme=scheme, cancellation=cancellation)


def push(
    name: ModelName,
    library: Library,
    report: Report,
    cancellation: Cancellation,
    *,
    scheme: str = "",
    insecure: bool = False,
) -> None:
    """Send a model; see `pull`.

    Raises:
        AddressRefused: the configuration does not allow the registry.
        PunaError: as `puna.registry.sources.push`.
    """
    if not name.is_pypi and (insecure or name.host.lower() != DEFAULT_HOST):
        _check_configured(name, "a push needs")
    sources.check_reachable(name, scheme=scheme)
    sources.push(name, library, report, scheme=scheme, cancellation=cancellation)


def _check_configured(name: ModelName, what: str) -> None:
    if name.host.lower() not in sources.configured_hosts():
        raise AddressRefused(
            f"{what} a registry that the server's configuration names: its administrator can add"
            f' [registries."{name.host[:100]}"]'
        )
