"""The models in memory, told."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from puna.errors import FetchError, InvalidOption, StoreError
from puna.scheduler.scheduler import LoadedModel
from puna.store.library import Library
from puna.store.model import Model, read_model
from puna.store.name import parse_name


@dataclass(frozen=True, slots=True)
class ModelInMemory:
    """A model in memory, and what the store says of it.

    Attributes:
        model: None where the store has it no more.
    """

    loaded: LoadedModel
    model: Model | None


def models_in_memory(library: Library, loaded: Iterable[LoadedModel]) -> list[ModelInMemory]:
    """The models in memory, in the given order."""
    return [ModelInMemory(one, _stored(library, one.name)) for one in loaded]


def without_a_name(library: Library, loaded: Sequence[LoadedModel]) -> list[str]:
    """The digests of the models in memory that no name in the store has, so that nobody can ask for them."""
    try:
        named = set(map(str, library.manifests.referenced()))
    except StoreError:  # nobody can tell
        return []
    return [one.digest for one in loaded if one.digest not in named]


def _stored(library: Library, name: str) -> Model | None:
    try:
        return read_model(library, parse_name(name))
    except (FetchError, InvalidOption, StoreError):
        return None
