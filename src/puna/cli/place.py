"""Where the models are that a command works with: this machine's store, or a server."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from puna.cli import terminal
from puna.cli.models import user_library
from puna.cli.progress import ProgressDisplay
from puna.cli.reach import Where, managing_server
from puna.errors import FetchError, InvalidOption, ModelNotFound, PunaError, ServerError
from puna.progress import Progress, Report
from puna.store.library import Library, ListedModel, Listing
from puna.store.name import parse_name, scheme_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from puna.cli.speaker import Speaker
    from puna.client import Client, Message
    from puna.client.replies import ProgressReply
    from puna.modelfile.commands import Modelfile
    from puna.services.finding import FoundModel

_LOADING_SHOWN_AFTER = 0.3
CONTINUES_TEXT = "{{ .Prompt }}"
"""What a server tells for a template where the model has none."""


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
    """

    name: str
    modelfile: "Modelfile"
    folder: Path
    quantize: str = ""
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class SavedSession:
    """What `/save` makes a model of."""

    from_: str
    system: str | None
    parameters: Mapping[str, Any]
    messages: "Sequence[Message]"


@dataclass(frozen=True, slots=True)
class StorePlace:
    """The store of this machine, and models in this process."""

    library: Library

    def listing(self) -> Listing:
        return self.library.listing()

    def show(self, name: str, *, verbose: bool = False) -> dict[str, Any]:
        from puna.services.description import describe_as_document, describe_model

        return describe_as_document(describe_model(self.library, parse_name(name)), verbose=verbose)

    def pull(self, name: str, report: Report, *, insecure: bool) -> None:
        from puna.services.template_check import pull_model

        pull_model(parse_name(name), self.library, report, scheme=scheme_of(name), insecure=insecure)

    def push(self, name: str, report: Report, *, insecure: bool) -> None:
        from puna.registry.sources import push

        push(parse_name(name), self.library, report, scheme=scheme_of(name), insecure=insecure)

    def copy(self, source: str, target: str) -> str:
        try:
            return self.library.copy(parse_name(source), parse_name(target)).kept
        except ModelNotFound as error:
            raise ModelNotFound(f'model "{source[:100]}" not found') from error

    def delete(self, name: str) -> str:
        try:
            return self.library.delete(parse_name(name)).kept
        except ModelNotFound as error:
            raise ModelNotFound(f"model '{name[:100]}' not found") from error

    def create(self, order: Order, report: Report) -> None:
        from puna.create.local import local_request
        from puna.services.creation import create

        name, library = parse_name(order.name), self.library
        with local_request(
            order.modelfile, name, order.folder, library, report, quantize=order.quantize
        ) as request:
            create(request, library, report, insecure=order.insecure)

    def save(self, name: str, session: SavedSession) -> None:
        from puna.create.request import CreateRequest
        from puna.services.creation import create
        from puna.store.model import Message

        messages = tuple(Message(message.role, message.content) for message in session.messages)
        request = CreateRequest(
            name=parse_name(name),
            from_=parse_name(session.from_),
            system=session.system,
            parameters=session.parameters,
            messages=messages or None,
        )
        create(request, self.library, lambda step: None)

    def find(self, name: str, *, insecure: bool = False) -> "FoundModel":
        """The model's file; it is pulled if it is not there. Raises: PunaError."""
        from puna.services.finding import find_model

        with ProgressDisplay() as display:
            return find_model(name, self.library, display.update, insecure=insecure)

    def open(self, name: str, wanted: Wanted) -> "Speaker":
        found = self.find(name, insecure=wanted.insecure)
        began = time.perf_counter()
        from puna.cli.speaker import LocalSpeaker

        # Only now, with the model at hand, is the compute half worth its start-up time.
        from puna.inprocess.loading import load_found

        display = ProgressDisplay()

        def show_loading(done: float) -> None:
            if time.perf_counter() - began > _LOADING_SHOWN_AFTER:
                display.fraction("loading model", done)

        model = load_found(name, found, dict(wanted.options), show_loading)
        display.clear()
        return LocalSpeaker(model)


@dataclass(frozen=True, slots=True)
class ServerPlace:
    """A server."""

    client: "Client"

    def listing(self) -> Listing:
        models = [
            ListedModel(parse_name(model.name), model.digest, model.size, moment_seconds(model.modified_at))
            for model in self.client.list().models
        ]
        return Listing(models, [])

    def show(self, name: str, *, verbose: bool = False) -> dict[str, Any]:
        document: dict[str, Any] = msgspec.to_builtins(self.client.show(name, verbose=verbose))
        return {"model_info": {}, "details": {}, **document}

    def pull(self, name: str, report: Report, *, insecure: bool) -> None:
        follow(self.client.pull(name, insecure=insecure, stream=True), report)

    def push(self, name: str, report: Report, *, insecure: bool) -> None:
        follow(self.client.push(name, insecure=insecure, stream=True), report)

    def copy(self, source: str, target: str) -> str:
        self.client.copy(source, target)
        return ""

    def delete(self, name: str) -> str:
        try:
            self.client.generate(name, keep_alive=0)
        except ModelNotFound:
            pass  # the deletion says so
        except PunaError:
            terminal.complain("Warning", f"unable to stop model '{name[:100]}'")
        self.client.delete(name)
        return ""

    def create(self, order: Order, report: Report) -> None:
        from puna.cli.uploading import create_on

        follow(create_on(self.client, order, report), report)

    def save(self, name: str, session: SavedSession) -> None:
        self.client.create(
            name,
            from_=session.from_,
            system=session.system,
            parameters=session.parameters or None,
            messages=session.messages or None,
        )

    def open(self, name: str, wanted: Wanted) -> "Speaker":
        from puna.cli.speaker import ServerSpeaker

        try:
            shown = self.client.show(name)
        except ModelNotFound:
            self._fetch(name, insecure=wanted.insecure)
            shown = self.client.show(name)
        continues_text = shown.template == CONTINUES_TEXT and not shown.renderer
        return ServerSpeaker(self.client, name, tuple(shown.capabilities or ()), continues_text)

    def _fetch(self, name: str, *, insecure: bool) -> None:
        try:
            with ProgressDisplay() as display:
                self.pull(name, display.update, insecure=insecure)
        except (FetchError, InvalidOption, ServerError) as error:
            raise ModelNotFound(
                f"model '{name[:100]}' not found on the server, and cannot be pulled: {error}"
            ) from error


@contextmanager
def managing_place(where: Where) -> Iterator[Place]:
    """Where models are managed: the store of this machine, or a server; see `managing_server`."""
    client = managing_server(where)
    if client is None:
        yield StorePlace(user_library())
        return
    with client:
        yield ServerPlace(client)


def follow(steps: "Iterable[ProgressReply]", report: Report) -> None:
    """Report the steps that a server tells of. Raises: PunaError, as they come."""
    for step in steps:
        report(Progress(step.status, step.completed, step.total, step.digest))


def moment_seconds(moment: str) -> float:
    """Seconds since 1970 of a moment as RFC 3339 writes it; 0 for what is none."""
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return 0.0
