"""The models of a server."""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from puna.cli import terminal
from puna.cli.place import Order, SavedSession, Wanted
from puna.cli.progress import ProgressDisplay
from puna.cli.speaker import Prompt, Speaker
from puna.client.arguments import AnswerArguments, EmbedArguments, Format, GivenMessage
from puna.client.replies import ChatReply, EmbedReply, GenerateReply, ProgressReply
from puna.errors import FetchError, InvalidOption, ModelNotFound, PunaError, ServerError
from puna.progress import Progress, Report
from puna.sampling.grammar import Grammar
from puna.store.library import ListedModel, Listing
from puna.store.name import parse_name

if TYPE_CHECKING:
    from puna.client import Client

# What a server tells for a template where the model has none.
_CONTINUES_TEXT = "{{ .Prompt }}"


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
            self.client.unload(name)
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
        parse_name(name)
        try:
            shown = self.client.show(name)
        except ModelNotFound as error:
            if os.path.exists(name):
                raise ModelNotFound(
                    f"{error} on the server; to run a file of that name, write ./{name[:100]}"
                ) from error
            self._fetch(name, insecure=wanted.insecure)
            shown = self.client.show(name)
        continues_text = shown.template == _CONTINUES_TEXT and not shown.renderer
        return ServerSpeaker(self.client, name, tuple(shown.capabilities or ()), continues_text)

    def _fetch(self, name: str, *, insecure: bool) -> None:
        try:
            with ProgressDisplay() as display:
                self.pull(name, display.update, insecure=insecure)
        except (FetchError, InvalidOption, ServerError) as error:
            raise ModelNotFound(
                f"model '{name[:100]}' not found on the server, and cannot be pulled: {error}"
            ) from error


@dataclass(frozen=True, slots=True)
class ServerSpeaker:
    """A model on a server, whose client stays open."""

    client: "Client"
    name: str
    capabilities: Collection[str]
    continues_text: bool

    def generate(
        self, prompt: Prompt, grammar: Grammar | None, arguments: AnswerArguments
    ) -> Iterator[GenerateReply]:
        kept = kept_to(grammar, arguments)
        with self.client.generate(self.name, prompt.text, stream=True, **prompt.arguments, **kept) as pieces:
            check_obeyed(kept, pieces.request_id)
            yield from pieces

    def chat(
        self, messages: Sequence[GivenMessage], grammar: Grammar | None, arguments: AnswerArguments
    ) -> Iterator[ChatReply]:
        kept = kept_to(grammar, arguments)
        with self.client.chat(self.name, messages, stream=True, **kept) as pieces:
            check_obeyed(kept, pieces.request_id)
            yield from pieces

    def embed(self, text: str, arguments: EmbedArguments) -> EmbedReply:
        return self.client.embed(self.name, [text], **arguments)

    def warnings(self, grammar: Grammar) -> Sequence[str]:
        return ()

    def interruptible(self) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        return


def kept_to(grammar: Grammar | None, arguments: AnswerArguments) -> AnswerArguments:
    """The arguments with the grammar: as a format where that can say it, which is all that Ollama knows."""
    if grammar is None:
        return arguments
    if grammar.kind != "json_schema":
        return {**arguments, "grammar": grammar}
    if grammar == Grammar.any_object():
        return {**arguments, "format": "json"}
    schema: Format = msgspec.json.decode(grammar.source)
    return {**arguments, "format": schema}


def check_obeyed(arguments: AnswerArguments, request_id: str) -> None:
    """Check that a server which answers so does what Ollama's passes over, which has no ids.

    Raises:
        InvalidOption: it does not keep to a grammar, or applies no adapters.
    """
    if "adapters" in arguments and not request_id:
        raise InvalidOption("this server applies no adapters of requests; say --local to run without it")
    if "grammar" in arguments and not request_id:
        raise InvalidOption("this server keeps answers to --format only; say --local to run without it")


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
