"""What a conversation on a terminal knows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from puna.chat.conversation import Think
from puna.cli.place import Place
from puna.cli.speaker import Speaker
from puna.client.arguments import AnswerArguments
from puna.client.replies import Message
from puna.sampling.grammar import Grammar


@dataclass(slots=True)
class Talk:
    """A conversation and how it is to go on.

    Attributes:
        speaker: the model.
        place: where others are.
        messages: what was said, without the system message.
        system: the system message; None leaves it to the model.
        options: Ollama's, by name, as the user has set them.
        grammar: what answers are kept to.
        wraps: words that do not fit their line go to the next one.
        raw: each text is sent alone and as it is, without a template.
    """

    speaker: Speaker
    place: Place
    options: dict[str, Any] = field(default_factory=dict)
    grammar: Grammar | None = None
    system: str | None = None
    think: Think = None
    keep_alive: str | float | None = None
    hides_thinking: bool = False
    verbose: bool = False
    wraps: bool = True
    insecure: bool = False
    raw: bool = False
    messages: list[Message] = field(default_factory=list)

    @property
    def conversation(self) -> list[Message]:
        """What is sent: the system message, if the user has set one, and what was said."""
        leading = [] if self.system is None else [Message(role="system", content=self.system)]
        return [*leading, *self.messages]

    @property
    def arguments(self) -> AnswerArguments:
        """What is sent besides."""
        return answer_arguments(self.options, self.think, self.keep_alive)

    @property
    def sees(self) -> bool:
        """Whether the model can be shown pictures."""
        return "vision" in self.speaker.capabilities


def answer_arguments(
    options: Mapping[str, Any], think: Think, keep_alive: str | float | None
) -> AnswerArguments:
    """The arguments that say something."""
    arguments: AnswerArguments = {}
    if options:
        arguments["options"] = dict(options)
    if think is not None:
        arguments["think"] = think
    if keep_alive is not None:
        arguments["keep_alive"] = keep_alive
    return arguments
