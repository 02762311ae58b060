"""The models there are, and what there is to say of each in a list."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from puna.chat.capabilities import Capability
from puna.errors import GGUFError, PunaError
from puna.services.description import GGUFHead, describe_model
from puna.store.config import ModelConfig
from puna.store.library import Library, ListedModel
from puna.store.model import read_model

_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Facts:
    """What does not change while a model's digest does not.

    Attributes:
        context_length, embedding_length: as the GGUF file says; 0 where it does not.
    """

    config: ModelConfig
    parent: str
    capabilities: tuple[Capability, ...]
    context_length: int = 0
    embedding_length: int = 0


class Catalogue:
    """Lists a library, and remembers what it has read of each model. Several threads may use it."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Facts] = OrderedDict()

    def models(self, damaged: Callable[[str, str], None]) -> list[tuple[ListedModel, Facts]]:
        """The models, the last changed first; those that cannot be read are left out.

        Args:
            damaged: told the name of each of these, and what is wrong.

        Raises:
            StoreError: the store cannot be read.
        """
        listing = self._library.listing()
        for name, reason in listing.damaged:
            damaged(str(name), reason)
        found = []
        for model in listing.models:
            try:
                found.append((model, self._facts(model)))
            except PunaError as error:
                damaged(str(model.name), str(error))
        return found

    def _facts(self, model: ListedModel) -> Facts:
        with self._lock:
            known = self._known.get(model.digest)
            if known is not None:
                self._known.move_to_end(model.digest)
                return known
        try:
            facts = _read(self._library, model)
        except PunaError:
            # Its files may be gone; whoever wants to delete it must see it. A manifest's worth can be told.
            plain = read_model(self._library, model.name)
            return Facts(plain.config, plain.parent, ())
        with self._lock:
            self._known[model.digest] = facts
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return facts


def _read(library: Library, model: ListedModel) -> Facts:
    description = describe_model(library, model.name)
    return Facts(
        description.model.config,
        description.model.parent,
        description.capabilities,
        _length(description.weights, "context_length"),
        _length(description.weights, "embedding_length"),
    )


def _length(head: GGUFHead | None, key: str) -> int:
    try:
        return head.metadata.uint(key, 0) if head else 0
    except GGUFError:
        return 0
