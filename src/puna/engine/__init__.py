"""The engine: a model in memory that turns prompts into text."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from puna.engine.events import Done, Event, TextChunk
from puna.engine.options import LoadOptions

if TYPE_CHECKING:
    from puna.engine.load import LoadedModel, load_model

__all__ = ["Done", "Event", "LoadOptions", "LoadedModel", "TextChunk", "load_model"]


def __getattr__(name: str) -> Any:
    """Loads the compute half only when it is asked for: options and events are used without it."""
    if name in ("LoadedModel", "load_model"):
        return getattr(import_module("puna.engine.load"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
