"""A model to speak with, in this process or on a server: the commands see no difference."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

from puna.chat.conversation import Think
from puna.client.arguments import AnswerArguments, EmbedArguments, GivenAdapter, GivenMessage
from puna.client.replies import ChatReply, EmbedReply, GenerateReply
from puna.sampling.grammar import Grammar


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

    def warnings(self, grammar: Grammar) -> Sequence[str]:
        """What of a grammar has no effect, as far as that is known here. Raises: InvalidOption."""

    def interruptible(self) -> AbstractContextManager[None]:
        """While inside, Ctrl-C ends an answer at once."""

    def close(self) -> None:
        """Free what it takes here."""


def answer_arguments(
    options: Mapping[str, Any],
    think: Think,
    keep_alive: str | float | None,
    adapters: Sequence[GivenAdapter] = (),
) -> AnswerArguments:
    """The arguments that say something."""
    arguments: AnswerArguments = {}
    if options:
        arguments["options"] = dict(options)
    if think is not None:
        arguments["think"] = think
    if keep_alive is not None:
        arguments["keep_alive"] = keep_alive
    if adapters:
        arguments["adapters"] = adapters
    return arguments
