"""What a caller asks of a model: a conversation to go on with, and how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from reprlib import repr as brief
from typing import Any, Literal, TypeAlias

from puna.chat.events import ToolCall
from puna.chat.variables import Scalar
from puna.errors import InvalidOption
from puna.sampling.grammar import Grammar
from puna.sampling.toolcalls import ToolDeclaration, check_tools

THINKING_LEVELS = ("high", "medium", "low", "max")

Think: TypeAlias = bool | str | None


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        role: `system`, `user`, `assistant`, `tool`, or what else the model's template knows.
        thinking: what the model thought before this content.
        images: the content of image files.
        tool_calls: the calls that the model made.
        tool_name: the tool whose result this is.
        tool_call_id: the call whose result this is.
    """

    role: str
    content: str = ""
    thinking: str = ""
    images: tuple[bytes, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""

    def for_go(self) -> dict[str, Any]:
        """The message in the form of Ollama's API, which Go templates see."""
        calls = [
            {
                **({"id": call.id} if call.id else {}),
                "function": {"index": call.index, "name": call.name, "arguments": call.arguments},
            }
            for call in self.tool_calls
        ]
        optional = {
            "thinking": self.thinking,
            "images": list(self.images),
            "tool_calls": calls,
            "tool_name": self.tool_name,
            "tool_call_id": self.tool_call_id,
        }
        return {"role": self.role, "content": self.content, **_present(optional)}

    def for_jinja(self) -> dict[str, Any]:
        """The message in the form that templates for Hugging Face's transformers see."""
        calls = [
            {
                "id": call.id or "",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in self.tool_calls
        ]
        optional = {
            "reasoning_content": self.thinking,
            "images": list(self.images),
            "tool_calls": calls,
            "name": self.tool_name,
            "tool_call_id": self.tool_call_id,
        }
        return {"role": self.role, "content": self.content, **_present(optional)}


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


@dataclass(frozen=True, slots=True)
class NamedTool:
    """The choice of one tool, which must be called."""

    name: str


ToolChoice: TypeAlias = Literal["none", "auto", "required"] | NamedTool

_CHOICES: Mapping[str, ToolChoice] = {"none": "none", "auto": "auto", "required": "required"}


def read_tool_choice(value: object) -> ToolChoice:
    """What `tool_choice` of an API says: a word, or {"type": "function", "function": {"name": …}}.

    Null is "auto".

    Raises:
        InvalidOption: it is neither.
    """
    if value is None:
        return "auto"
    if isinstance(value, str) and value in _CHOICES:
        return _CHOICES[value]
    function = value.get("function") if isinstance(value, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if isinstance(name, str) and name:
        return NamedTool(name)
    raise InvalidOption(f"tool_choice must be none, auto, required or a function, not {brief(value)}")


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation that a model is to go on with.

    Attributes:
        messages: the latest last.
        tools: the tools that the model may call, in the form of Ollama's and OpenAI's APIs.
        tool_choice: whether it may, must or must not call one.
        think: whether the model thinks first, or how hard; None lets it if it can.
        format: what the answer, after thinking, is kept to; None leaves it free.
        suffix: the text after the gap that the model is to fill; the last message is the text before it.
        variables: further ones of the model's chat template, checked when the prompt is made.
        truncate: leave out the oldest turns where the conversation is too long, which else is an error.

    Raises:
        InvalidOption: there are no messages, a tool is none, two have one name, the chosen tool is not among
            them, or the level of thinking is unknown.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: ToolChoice = "auto"
    think: Think = None
    format: Grammar | None = None
    suffix: str = ""
    truncate: bool = False
    variables: Mapping[str, Scalar] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.messages:
            raise InvalidOption("there are no messages")
        check_think(self.think)
        check_tools(self.declarations)
        self._check_choice()

    @property
    def declarations(self) -> list[ToolDeclaration]:
        """The tools, checked one by one. Raises: InvalidOption."""
        return [ToolDeclaration.from_api(tool) for tool in self.tools]

    @property
    def must_call(self) -> list[ToolDeclaration]:
        """The tools of which one must be called; empty where none must."""
        if isinstance(self.tool_choice, NamedTool):
            return [tool for tool in self.declarations if tool.name == self.tool_choice.name]
        return self.declarations if self.tool_choice == "required" else []

    @property
    def offered(self) -> tuple[Mapping[str, Any], ...]:
        """The tools that the model is told of."""
        return () if self.tool_choice == "none" else self.tools

    def _check_choice(self) -> None:
        choice = self.tool_choice
        if isinstance(choice, str) and choice not in ("none", "auto", "required"):
            raise InvalidOption(f"tool_choice must be none, auto, required or a tool, not {choice[:60]!r}")
        if choice in ("none", "auto") or self.must_call:
            return
        if isinstance(choice, NamedTool) and self.tools:
            raise InvalidOption(f"tool_choice names {choice.name[:60]!r}, which is none of the tools")
        raise InvalidOption("tool_choice asks for a call, but there are no tools")


def check_think(think: Think) -> None:
    """Check a value of `think`, as Ollama's API does. Raises: InvalidOption."""
    if isinstance(think, str) and think not in THINKING_LEVELS:
        known = ", ".join(f'"{level}"' for level in THINKING_LEVELS)
        raise InvalidOption(f'invalid think value: "{think[:60]}" (must be {known}, true, or false)')
