"""The models of this machine, for commands."""

from pathlib import Path
from typing import TYPE_CHECKING

from puna import settings
from puna.cli.progress import ProgressDisplay
from puna.store.library import Library

if TYPE_CHECKING:
    from puna.services.finding import FoundModel


def find_model(model: str, store: Path | None = None, *, insecure: bool = False) -> "FoundModel":
    """What `model` means: the path of a GGUF file, or a name.

    A model that is not in the store is pulled, with progress on standard error.

    Args:
        store: the store's folder; None takes the configured one.
        insecure: plain http and private addresses are allowed for the name's registry.

    Raises:
        PunaError: as `puna.services.finding.find_model`.
    """
    from puna.services import finding

    library = Library(store) if store else user_library()
    with ProgressDisplay() as display:
        return finding.find_model(model, library, display.update, insecure=insecure)


def resolve_model(model: str, store: Path | None = None) -> Path:
    """The GGUF file of `model`. Raises: as `find_model`."""
    return find_model(model, store).path


def user_library() -> Library:
    """The configured store."""
    return Library(settings.models_path(), keep_unused=settings.keep_unused())
