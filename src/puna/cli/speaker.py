"""A model to speak with, in this process or on a server: the commands see no difference."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypedDict

import msgspec

from puna.client.arguments import AnswerArguments, EmbedArguments, Format, GivenMessage
from puna.client.replies import ChatReply, EmbedReply, GenerateReply
from puna.errors import InvalidOption
from puna.sampling.grammar import Grammar

if TYPE_CHECKING:
    from puna.client import Client
    from puna.inprocess import Model


class PromptArguments(TypedDict):
    """Those of a prompt; see `puna.client.arguments.GenerateArguments`."""

    system: str | None
    raw: bool
    images: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, with a system message or None for the model's own, and pictures.

    Attributes:
        raw: it is sent as it is, without a template.
    """

    text: str
    system: str | None = None
    images: tuple[bytes, ...] = ()
    raw: bool = False

    @property
    def arguments(self) -> PromptArguments:
        """What is sent besides the text."""
        return {"system": self.system, "raw": self.raw, "images": self.images}


class Speaker(Protocol):
    """A model to speak with.

    Attributes:
        name: as the user wrote it.
        capabilities: what it can do, by the names of the API.
        continues_text: it has no template, so a prompt is text to go on with.
    """

    @property
    def name(self) -> str: ...
    @property
    def capabilities(self) -> Collection[str]: ...
    @property
    def continues_text(self) -> bool: ...

    def generate(
        self, prompt: Prompt, grammar: Grammar | None, arguments: AnswerArguments
    ) -> Iterator[GenerateReply]:
        """The answer to a prompt, piece by piece. Closing the iterator ends it. Raises: PunaError."""

    def chat(
        self, messages: Sequence[GivenMessage], grammar: Grammar | None, arguments: AnswerArguments
    ) -> Iterator[ChatReply]:
        """The answer to a conversation, as `generate`."""

    def embed(self, text: str, arguments: EmbedArguments) -> EmbedReply:
        """The vector of a text. Raises: PunaError."""

    def interruptible(self) -> AbstractContextManager[None]:
        """While inside, Ctrl-C ends an answer at once."""

    def close(self) -> None:
        """Free what it takes here."""


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
        self, prompt: Prompt, grammar: Grammar | None, arguments: AnswerArguments
    ) -> Iterator[GenerateReply]:
        with self.model.generate(
            prompt.text, stream=True, grammar=grammar, **prompt.arguments, **arguments
        ) as pieces:
            yield from pieces

    def chat(
        self, messages: Sequence[GivenMessage], grammar: Grammar | None, arguments: AnswerArguments
    ) -> Iterator[ChatReply]:
        with self.model.chat(messages, stream=True, grammar=grammar, **arguments) as pieces:
            yield from pieces

    def embed(self, text: str, arguments: EmbedArguments) -> EmbedReply:
        return self.model.embed([text], **arguments)

    def interruptible(self) -> AbstractContextManager[None]:
        return self.model.interrupted_by_signals()

    def close(self) -> None:
        self.model.close()


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
        kept: AnswerArguments = {**arguments, "format": format_of(grammar)}
        with self.client.generate(self.name, prompt.text, stream=True, **prompt.arguments, **kept) as pieces:
            yield from pieces

    def chat(
        self, messages: Sequence[GivenMessage], grammar: Grammar | None, arguments: AnswerArguments
    ) -> Iterator[ChatReply]:
        kept: AnswerArguments = {**arguments, "format": format_of(grammar)}
        with self.client.chat(self.name, messages, stream=True, **kept) as pieces:
            yield from pieces

    def embed(self, text: str, arguments: EmbedArguments) -> EmbedReply:
        return self.client.embed(self.name, [text], **arguments)

    def interruptible(self) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        return


def format_of(grammar: Grammar | None) -> Format | None:
    """The grammar as the API can say it. Raises: InvalidOption: it cannot."""
    if grammar is None:
        return None
    if not sayable(grammar):
        raise InvalidOption(
            "a server keeps answers to --format only: run without a server for other grammars"
        )
    if grammar == Grammar.any_object():
        return "json"
    schema: Format = msgspec.json.decode(grammar.source)
    return schema


def sayable(grammar: Grammar | None) -> bool:
    """Whether the API can say it."""
    return grammar is None or grammar.kind == "json_schema"
