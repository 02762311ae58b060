"""What it takes to speak to registries: the network, the user's registries and credentials, and the pace."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from puna.registry.client import Identity, Repository, Timeouts
from puna.registry.download import Transfer
from puna.registry.network import Network
from puna.registry.registries import Registry
from puna.registry.upload import Chunking
from puna.store.name import ModelName


@dataclass(frozen=True, slots=True)
class Access:
    """One program's way to its registries.

    Attributes:
        identity: who asks.
        network: the way out.
        registries: those that the configuration has tables for, by host.
        timeouts: how long to wait for a registry.
        transfer: how to fetch a blob.
        chunking: how to send one.
    """

    identity: Identity
    network: Network = field(default_factory=Network)
    registries: Mapping[str, Registry] = field(default_factory=dict)
    timeouts: Timeouts = field(default_factory=Timeouts)
    transfer: Transfer = field(default_factory=Transfer)
    chunking: Chunking = field(default_factory=Chunking)

    @contextmanager
    def repository(self, registry: Registry, name: ModelName) -> Iterator[Repository]:
        """The name's repository in a registry, for the time of the block."""
        repository = Repository(self.network, registry, name, self.identity, self.timeouts)
        try:
            yield repository
        finally:
            repository.close()
