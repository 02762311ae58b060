"""The store of this machine, and models in this process."""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from puna.cli.models import find_model
from puna.cli.place import Order, SavedSession, Wanted
from puna.cli.progress import ProgressDisplay
from puna.errors import ModelNotFound
from puna.progress import Report
from puna.store.library import Library, Listing
from puna.store.name import parse_name, scheme_of

if TYPE_CHECKING:
    from puna.cli.speaker import Prompt, Speaker
    from puna.client.arguments import AnswerArguments, EmbedArguments, GivenMessage
    from puna.client.replies import ChatReply, EmbedReply, GenerateReply
    from puna.inprocess import Model
    from puna.sampling.grammar import Grammar

_LOADING_SHOWN_AFTER = 0.3


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
            order.modelfile,
            name,
            order.folder,
            library,
            report,
            quantize=order.quantize,
            imatrix=order.imatrix,
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

    def open(self, name: str, wanted: Wanted) -> "Speaker":
        found = find_model(name, self.library, insecure=wanted.insecure)
        began = time.perf_counter()
        # Only now, with the model at hand, is the compute half worth its start-up time.
        from puna.inprocess.loading import load_found

        with ProgressDisplay() as display:

            def show_loading(done: float) -> None:
                if time.perf_counter() - began > _LOADING_SHOWN_AFTER:
                    display.fraction("loading model", done)

            return LocalSpeaker(load_found(name, found, dict(wanted.options), show_loading, self.library))


@dataclass(frozen=True, slots=True)
class LocalSpeaker:
    """A model in this process."""

    model: "Model"

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def capabilities(self) -> Collection[str]:
        return self.model.capabilities

    @property
    def continues_text(self) -> bool:
        return self.model.continues_text

    def generate(
        self, prompt: "Prompt", grammar: "Grammar | None", arguments: "AnswerArguments"
    ) -> "Iterator[GenerateReply]":
        kept: AnswerArguments = {**arguments, "grammar": grammar}
        with self.model.generate(prompt.text, stream=True, **prompt.arguments, **kept) as pieces:
            yield from pieces

    def chat(
        self, messages: "Sequence[GivenMessage]", grammar: "Grammar | None", arguments: "AnswerArguments"
    ) -> "Iterator[ChatReply]":
        kept: AnswerArguments = {**arguments, "grammar": grammar}
        with self.model.chat(messages, stream=True, **kept) as pieces:
            yield from pieces

    def embed(self, text: str, arguments: "EmbedArguments") -> "EmbedReply":
        return self.model.embed([text], **arguments)

    def warnings(self, grammar: "Grammar") -> Sequence[str]:
        return self.model.warnings(grammar)

    def interruptible(self) -> AbstractContextManager[None]:
        return self.model.interrupted_by_signals()

    def close(self) -> None:
        self.model.close()
