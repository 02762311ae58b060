"""What it takes to speak to registries: the network, the user's registries and credentials, and the pace."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from puna.registry.client import Identity, Repository
from puna.registry.download import Transfer
from puna.registry.network import Network
from puna.registry.patience import Patience
from puna.registry.registries import Registry
from puna.store.name import ModelName


@dataclass(frozen=True, slots=True)
class Access:
    """One program's way to its registries.

    Attributes:
        identity: who asks.
        network: the way out.
        registries: those that the configuration has tables for, by host.
        patience: when to give up.
        transfer: how to fetch a blob.
        chunk: bytes of a part of a blob that is sent.
    """

    identity: Identity
    network: Network = field(default_factory=Network)
    registries: Mapping[str, Registry] = field(default_factory=dict)
    patience: Patience = field(default_factory=Patience)
    transfer: Transfer = field(default_factory=Transfer)
    chunk: int = 32 << 20

    @contextmanager
    def repository(self, registry: Registry, name: ModelName) -> Iterator[Repository]:
        """The name's repository in a registry, for the time of the block.

        Raises:
            Interrupted: the operation has been cancelled.
        """
        repository = Repository(self.network, registry, name, self.identity, self.patience)
        try:
            with self.patience.cancellation.calling(repository.close):
                yield repository
        finally:
            repository.close()
