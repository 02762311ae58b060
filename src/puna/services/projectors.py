"""A model's image encoder, where the store has it as a file of its own."""

from dataclasses import dataclass, replace
from pathlib import Path

from puna.chat.capabilities import picture_tokens
from puna.engine.options import LoadOptions
from puna.errors import GGUFError
from puna.gguf import GGUFFile, Metadata
from puna.store.model import Model


@dataclass(frozen=True, slots=True)
class Projector:
    """The file of an image encoder.

    Attributes:
        path: where it is.
        metadata: what it says of itself.
    """

    path: Path
    metadata: Metadata


def projector_of(model: Model | None, metadata: Metadata) -> Projector | None:
    """The image encoder through which a model sees; None if there is none in a file of its own.

    Args:
        metadata: of the model's file.
    """
    if model is None or not model.projectors or picture_tokens(metadata):
        return None
    path = model.projectors[0]
    try:
        with GGUFFile.open(path) as file:
            found = Projector(path, file.metadata)
        return found if picture_tokens(metadata, found.metadata) else None
    except GGUFError:
        # Text can do without.
        return None


def projector_beside(path: Path, model: Model | None) -> Projector | None:
    """The same for the model whose file is at `path`. Raises: GGUFError: that file is no sound GGUF file."""
    if model is None or not model.projectors:
        return None
    with GGUFFile.open(path) as file:
        return projector_of(model, file.metadata)


def seeing(options: LoadOptions, projector: Projector | None) -> LoadOptions:
    """The options, with the image encoder."""
    return options if projector is None else replace(options, projector=str(projector.path))
