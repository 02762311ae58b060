"""Where the models are that a command works with: this machine's store, or a server."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from puna.cli.models import user_library
from puna.cli.reach import Where, managing_server
from puna.progress import Report
from puna.store.library import Listing

if TYPE_CHECKING:
    from puna.cli.speaker import Speaker
    from puna.client import Message
    from puna.modelfile.commands import Modelfile


@dataclass(frozen=True, slots=True)
class Wanted:
    """The model that a session is to speak with.

    Attributes:
        options: Ollama's, by name.
        insecure: plain http and private addresses are allowed for a pull.
        keep_alive: how long a server keeps it loaded.
    """

    options: Mapping[str, Any]
    insecure: bool = False
    keep_alive: str | float | None = None


class Place(Protocol):
    """Models, wherever they are."""

    def listing(self) -> Listing:
        """The models there are. Raises: PunaError."""

    def show(self, name: str, *, verbose: bool = False) -> dict[str, Any]:
        """What there is to say of a model, as `POST /api/show` answers it. Raises: PunaError."""

    def pull(self, name: str, report: Report, *, insecure: bool) -> None:
        """Fetch a model. Raises: PunaError."""

    def push(self, name: str, report: Report, *, insecure: bool) -> None:
        """Send a model to its registry. Raises: PunaError."""

    def copy(self, source: str, target: str) -> str:
        """Give a model another name; why unused files are kept, or nothing. Raises: PunaError."""

    def delete(self, name: str) -> str:
        """Remove a model; as `copy`. Raises: PunaError."""

    def create(self, order: "Order", report: Report) -> None:
        """Make a model as a Modelfile says. Raises: PunaError."""

    def save(self, name: str, session: "SavedSession") -> None:
        """Make a model of a session. Raises: PunaError."""

    def open(self, name: str, wanted: Wanted) -> "Speaker":
        """The model to speak with, loaded; it is pulled if it is not there. Raises: PunaError."""


@dataclass(frozen=True, slots=True)
class Order:
    """A model to make.

    Attributes:
        folder: what the paths in the Modelfile are relative to.
        quantize: the type the weights are to have; empty leaves them as they are.
        insecure: plain http and private addresses are allowed for a pull.
        imatrix: an importance matrix to quantize by.
    """

    name: str
    modelfile: "Modelfile"
    folder: Path
    quantize: str = ""
    insecure: bool = False
    imatrix: Path | None = None


@dataclass(frozen=True, slots=True)
class SavedSession:
    """What `/save` makes a model of."""

    from_: str
    system: str | None
    parameters: Mapping[str, Any]
    messages: "Sequence[Message]"


@contextmanager
def managing_place(where: Where) -> Iterator[Place]:
    """Where models are managed: the store of this machine, or a server; see `managing_server`."""
    client = managing_server(where)
    if client is None:
        yield store_place()
        return
    from puna.cli.serverplace import ServerPlace

    with client:
        yield ServerPlace(client)


def store_place() -> Place:
    """The store of this machine."""
    from puna.cli.storeplace import StorePlace

    return StorePlace(user_library())
