"""The models of this machine, for commands."""

from typing import TYPE_CHECKING

from puna import settings
from puna.cli.progress import ProgressDisplay
from puna.store.library import Library

if TYPE_CHECKING:
    from puna.services.finding import FoundModel


def find_model(model: str, library: Library | None = None, *, insecure: bool = False) -> "FoundModel":
    """What `model` means: the path of a GGUF file, or a name.

    A model that is not in the store is pulled, with progress on standard error.

    Args:
        library: None takes the configured store.
        insecure: plain http and private addresses are allowed for the name's registry.

    Raises:
        PunaError: as `puna.services.finding.find_model`.
    """
    from puna.services import finding

    with ProgressDisplay() as display:
        return finding.find_model(model, library or user_library(), display.update, insecure=insecure)


def user_library() -> Library:
    """The configured store."""
    return Library(settings.models_path(), keep_unused=settings.keep_unused())
