"""LoRA adapters of the models in a store: those of the model that answers, and those that requests name."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from puna.engine.options import LoadOptions
from puna.engine.request import AdapterUse, check_adapters, uses
from puna.errors import InvalidOption
from puna.services.named import find_stored
from puna.store.library import Library
from puna.store.model import stored_model


class NamedAdapter(msgspec.Struct, frozen=True):
    """An adapter that an answer is to be made with.

    Attributes:
        name: of a model in the store, whose adapter it is.
        scale: what its products are multiplied with.
    """

    name: str = ""
    scale: float = 1.0


def used(library: Library, own: Sequence[Path], named: Sequence[NamedAdapter]) -> tuple[AdapterUse, ...]:
    """What an answer is made with: a model's own adapters as they are, and those that a request names.

    A request that names the model itself says with which scale its own apply.

    Args:
        own: the files of the model's adapters.

    Raises:
        InvalidOption: this is no name, or a model without an adapter; one is named twice, there are too many,
            or a scale is too large.
        ModelNotFound: the store has no such model.
        StoreError: a file is missing or damaged.
    """
    asked = [AdapterUse(str(path), one.scale) for one in named for path in _files(library, one.name)]
    check_adapters(asked)
    paths = {one.path for one in asked}
    all = (*(one for one in uses(own) if one.path not in paths), *asked)
    check_adapters(all)
    return all


def _files(library: Library, name: str) -> tuple[Path, ...]:
    try:
        model = stored_model(library, find_stored(library, name, _not_found))
    except InvalidOption as error:
        raise InvalidOption(f"invalid name of an adapter: {name[:100]!r}") from error
    if not model.adapters:
        raise InvalidOption(f"model '{name[:100]}' has no adapter")
    return model.adapter_files(library.blobs)


def _not_found(name: str) -> str:
    return f"adapter '{name}' not found"


def adapted(options: LoadOptions, adapters: Sequence[AdapterUse]) -> LoadOptions:
    """The options, with the adapters that are to be in memory from the beginning."""
    return replace(options, adapters=tuple(one.path for one in adapters)) if adapters else options
