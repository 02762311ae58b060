"""Models of a store by what callers call them."""

from collections.abc import Callable

from puna.errors import InvalidOption, ModelNotFound
from puna.store.library import Library
from puna.store.manifests import StoredManifest
from puna.store.name import parse_name


def find_stored(library: Library, name: str, not_found: Callable[[str], str]) -> StoredManifest:
    """The manifest of the model that a caller calls `name`.

    Args:
        not_found: the text of the error, from the name.

    Raises:
        InvalidOption: this is no name.
        ModelNotFound: the store has no such model.
        StoreError: its manifest cannot be read.
    """
    try:
        parsed = parse_name(name)
    except InvalidOption as error:
        raise InvalidOption("invalid model name") from error
    try:
        return library.manifests.stored(parsed)
    except ModelNotFound as error:
        raise ModelNotFound(not_found(name[:400])) from error
