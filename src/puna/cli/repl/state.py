"""What a conversation on a terminal knows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from puna.chat.conversation import Think
from puna.cli.place import Place
from puna.cli.speaker import Speaker, answer_arguments
from puna.client.arguments import AnswerArguments, GivenAdapter
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
        adapters: those that answers are made with besides the model's own.
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
    adapters: Sequence[GivenAdapter] = ()
    messages: list[Message] = field(default_factory=list)

    @property
    def conversation(self) -> list[Message]:
        """What is sent: the system message, if the user has set one, and what was said."""
        leading = [] if self.system is None else [Message(role="system", content=self.system)]
        return [*leading, *self.messages]

    @property
    def arguments(self) -> AnswerArguments:
        """What is sent besides."""
        return answer_arguments(self.options, self.think, self.keep_alive, self.adapters)

    @property
    def sees(self) -> bool:
        """Whether the model can be shown pictures."""
        return "vision" in self.speaker.capabilities
