"""Pulling and pushing with the client under test: in this process, or as a user does on the command line."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.registry.canary import ClosedNetwork

from puna.progress import Progress, Report
from puna.registry.access import Access
from puna.registry.client import Identity
from puna.registry.download import Transfer
from puna.registry.network import Network
from puna.registry.patience import Patience
from puna.registry.pull import pull_model
from puna.registry.push import push_model
from puna.registry.registries import Registry, read_registries, registry_for
from puna.settings import Configuration
from puna.store.library import Library
from puna.store.name import parse_name

# Small parts and short times, so that a few MiB show what happens to many GiB.
QUICK = Transfer(streams=4, part=512 << 10, largest_part=1 << 20, record=64 << 10)
SMALL = 512 << 10
NO_FOLDER = Path("/proc/no-key-can-be-made-here")
HASTY = Patience(deadline=3.0, idle=1.0, tries=4, delay=0.01)


def ignore(_: Progress) -> None:
    """Report to nobody."""


def registries(tables: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Registry]:
    """The registries that a configuration file with these tables would give."""
    return read_registries(Configuration(Path("config.toml"), {"registries": tables}))


def access(
    network: ClosedNetwork | None = None,
    configured: Mapping[str, Registry] | None = None,
    patience: Patience = HASTY,
    transfer: Transfer = QUICK,
) -> Access:
    """The client's way out: without credentials, through the test's own network if there is one."""
    return Access(
        Identity(lambda _: None, NO_FOLDER),
        Network(network.resolve, network.connect) if network else Network(),
        configured or {},
        patience,
        transfer,
        SMALL,
    )


def pull(
    name: str,
    library: Library,
    *,
    insecure: bool = True,
    network: ClosedNetwork | None = None,
    configured: Mapping[str, Registry] | None = None,
    report: Report = ignore,
    patience: Patience = HASTY,
    transfer: Transfer = QUICK,
) -> None:
    """Pull with the client's own function."""
    parsed = parse_name(name)
    way = access(network, configured, patience, transfer)
    pull_model(parsed, registry_for(parsed.host, way.registries, insecure=insecure), library, report, way)


def push(
    name: str,
    library: Library,
    *,
    insecure: bool = True,
    network: ClosedNetwork | None = None,
    configured: Mapping[str, Registry] | None = None,
    report: Report = ignore,
) -> None:
    """Push with the client's own function."""
    parsed = parse_name(name)
    way = access(network, configured)
    push_model(parsed, registry_for(parsed.host, way.registries, insecure=insecure), library, report, way)


def puna_environment(library: Library, **more: str) -> dict[str, str]:
    """The environment of a `puna` command that uses this store, with a home of its own beside it."""
    passed_over = ("PUNA_", "OLLAMA_", "DOCKER_", "XDG_", "PIP_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(passed_over)}
    home = library.root.parent / "home"
    home.mkdir(exist_ok=True)
    return {**kept, "HOME": str(home), "PUNA_MODELS": str(library.root), "COLUMNS": "80", **more}
