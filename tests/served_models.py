"""Small models in a store, as a server finds them."""

from pathlib import Path
from typing import Any

from puna.create.request import CreateRequest
from puna.progress import Progress
from puna.services.creation import create
from puna.store.library import Library
from puna.store.manifests import MODEL_LAYER
from puna.store.name import parse_name

CHAT = "{{ range .Messages }}[{{ .Role }}]{{ .Content }}{{ end }}"


def add_model(library: Library, name: str, path: Path, **properties: Any) -> None:
    """Puts a GGUF file into the store under a name; see `CreateRequest` for the properties."""
    with library.session() as session:
        layer = session.adopt(MODEL_LAYER, path)
        request = CreateRequest(parse_name(name), files={"model.gguf": layer.content}, **properties)
        create(request, library, _unseen)


def _unseen(progress: Progress) -> None:
    pass
