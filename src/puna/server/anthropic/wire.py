"""What the routes of `puna.server.anthropic` read and write: Anthropic's documents."""

from typing import Any, TypeAlias

import msgspec

# Requests. What is null counts as left out.


class BlockBody(msgspec.Struct, kw_only=True):
    """A block of a message's content, of any type."""

    type: str = ""
    text: str = ""
    thinking: str = ""
    source: dict[str, Any] = {}
    id: str = ""
    name: str = ""
    input: dict[str, Any] = {}
    tool_use_id: str = ""
    content: "str | list[BlockBody]" = ""
    is_error: bool = False


class MessageBody(msgspec.Struct, kw_only=True):
    """A message of a conversation."""

    role: str = ""
    content: str | list[BlockBody] = ""


class ToolBody(msgspec.Struct, kw_only=True):
    """A tool that the model may call."""

    type: str = "custom"
    name: str = ""
    description: str = ""
    input_schema: dict[str, Any] | None = None


class ToolChoiceBody(msgspec.Struct, kw_only=True):
    """Whether a tool may, must or must not be called."""

    type: str = ""
    name: str = ""
    disable_parallel_tool_use: bool = False


class ThinkingBody(msgspec.Struct, kw_only=True):
    """Whether the model thinks before it answers, and how much."""

    type: str = ""
    budget_tokens: int = 0


class FormatBody(msgspec.Struct, kw_only=True):
    """What the answer is kept to."""

    type: str = ""
    schema: dict[str, Any] | None = None


class OutputBody(msgspec.Struct, kw_only=True):
    """How hard the model tries, and in which form it answers."""

    effort: str = ""
    format: FormatBody | None = None


class PromptBody(msgspec.Struct, kw_only=True):
    """What makes a prompt: POST /v1/messages/count_tokens."""

    model: str = ""
    messages: list[MessageBody] = []
    system: str | list[BlockBody] = ""
    tools: list[ToolBody] = []
    tool_choice: ToolChoiceBody | None = None
    thinking: ThinkingBody | None = None
    output_config: OutputBody | None = None
    mcp_servers: list[Any] = []


class MessagesBody(PromptBody, kw_only=True):
    """POST /v1/messages."""

    max_tokens: int = 0
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] = []


# Answers.


class TextBlock(msgspec.Struct, kw_only=True, tag_field="type", tag="text"):
    """What the model says."""

    text: str


class ThinkingBlock(msgspec.Struct, kw_only=True, tag_field="type", tag="thinking"):
    """What the model thinks."""

    thinking: str
    signature: str


class ToolUseBlock(msgspec.Struct, kw_only=True, tag_field="type", tag="tool_use"):
    """A call of a tool."""

    id: str
    name: str
    input: dict[str, Any]


class Usage(msgspec.Struct, kw_only=True):
    """Tokens: of the prompt those that had to be read and those that the cache had, and of the answer."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int = 0
    service_tier: str = "standard"


class MessageReply(msgspec.Struct, kw_only=True, tag_field="type", tag="message"):
    """An answer: whole, or with nothing in it where a stream begins."""

    id: str
    role: str = "assistant"
    model: str
    content: list[TextBlock | ThinkingBlock | ToolUseBlock] = []
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: Usage


class Ending(msgspec.Struct, kw_only=True):
    """Why an answer ended."""

    stop_reason: str
    stop_sequence: str | None = None


class CountReply(msgspec.Struct, kw_only=True):
    """How many tokens a prompt has."""

    input_tokens: int


# The events of a stream; each is named as its type.


class StreamEvent(msgspec.Struct, kw_only=True, tag_field="type"):
    """Base of all events."""


class MessageStart(StreamEvent, kw_only=True, tag="message_start"):
    """The answer begins."""

    message: MessageReply


class Ping(StreamEvent, tag="ping"):
    """Nothing."""


class BlockStart(StreamEvent, kw_only=True, tag="content_block_start"):
    """A block begins; what it holds comes with the events that follow."""

    index: int
    content_block: TextBlock | ThinkingBlock | ToolUseBlock


class TextDelta(msgspec.Struct, tag_field="type", tag="text_delta"):
    """A piece of text."""

    text: str


class ThinkingDelta(msgspec.Struct, tag_field="type", tag="thinking_delta"):
    """A piece of thinking."""

    thinking: str


class SignatureDelta(msgspec.Struct, tag_field="type", tag="signature_delta"):
    """The end of thinking."""

    signature: str


class InputDelta(msgspec.Struct, tag_field="type", tag="input_json_delta"):
    """A piece of a call's arguments, as JSON."""

    partial_json: str


class BlockDelta(StreamEvent, kw_only=True, tag="content_block_delta"):
    """A piece of a block."""

    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputDelta


class BlockStop(StreamEvent, kw_only=True, tag="content_block_stop"):
    """A block is complete."""

    index: int


class MessageDelta(StreamEvent, kw_only=True, tag="message_delta"):
    """The answer is complete."""

    delta: Ending
    usage: Usage


class MessageStop(StreamEvent, tag="message_stop"):
    """The stream ends."""


AnyEvent: TypeAlias = MessageStart | Ping | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop
"""One of the events of a stream that goes well."""
