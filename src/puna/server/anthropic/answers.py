"""Answers in Anthropic's form: content blocks, whole or piece by piece, and how they ended."""

import os
from collections.abc import Iterable
from itertools import groupby

import msgspec

from puna.chat.events import Content, Event, Thinking, ToolCall
from puna.server.anthropic.wire import (
    BlockDelta,
    BlockStart,
    BlockStop,
    Ending,
    InputDelta,
    SignatureDelta,
    StreamEvent,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
    Usage,
)
from puna.services.conversation import Finished

SIGNATURE = "puna"
"""Stands where Anthropic signs thinking. Nothing is signed here, and nothing checked when it comes back."""


def new_id(kind: str) -> str:
    """A name of something, such as `msg_` and random digits."""
    return f"{kind}_{os.urandom(12).hex()}"


def blocks_of(events: Iterable[Event]) -> list[TextBlock | ThinkingBlock | ToolUseBlock]:
    """The blocks of an answer."""
    blocks: list[TextBlock | ThinkingBlock | ToolUseBlock] = []
    for kind, group in groupby(events, type):
        if kind is ToolCall:
            blocks += [_tool_use(event) for event in group if isinstance(event, ToolCall)]
            continue
        text = "".join(event.text for event in group if not isinstance(event, ToolCall))
        thinking = ThinkingBlock(thinking=text, signature=SIGNATURE)
        blocks.append(thinking if kind is Thinking else TextBlock(text=text))
    return blocks


def _tool_use(call: ToolCall) -> ToolUseBlock:
    return ToolUseBlock(id=new_id("toolu"), name=call.name, input=call.arguments)


class Blocks:
    """The blocks of an answer that is streamed: text and thinking go on until something else comes.

    Attributes:
        called: a tool has been called.
    """

    def __init__(self) -> None:
        self.called = False
        self._index = -1
        self._open: type[Content] | type[Thinking] | None = None

    def feed(self, event: Event) -> list[StreamEvent]:
        """What the next piece of the answer makes of the stream."""
        if isinstance(event, ToolCall):
            self.called = True
            return [*self.close(), *self._call(_tool_use(event))]
        begun = [] if isinstance(event, self._open or ()) else [*self.close(), self._begin(event)]
        delta = TextDelta(event.text) if isinstance(event, Content) else ThinkingDelta(event.text)
        return [*begun, BlockDelta(index=self._index, delta=delta)]

    def close(self) -> list[StreamEvent]:
        """The end of the block that is open, if one is."""
        kind, self._open = self._open, None
        if kind is None:
            return []
        stop = BlockStop(index=self._index)
        signature = BlockDelta(index=self._index, delta=SignatureDelta(SIGNATURE))
        return [signature, stop] if kind is Thinking else [stop]

    def _begin(self, event: Content | Thinking) -> StreamEvent:
        self._index += 1
        self._open = type(event)
        thinks = isinstance(event, Thinking)
        return BlockStart(
            index=self._index,
            content_block=ThinkingBlock(thinking="", signature="") if thinks else TextBlock(text=""),
        )

    def _call(self, block: ToolUseBlock) -> list[StreamEvent]:
        self._index += 1
        arguments = msgspec.json.encode(block.input).decode()
        return [
            BlockStart(index=self._index, content_block=msgspec.structs.replace(block, input={})),
            BlockDelta(index=self._index, delta=InputDelta(arguments)),
            BlockStop(index=self._index),
        ]


def ending_of(finished: Finished, stop_sequences: Iterable[str], *, called: bool) -> Ending:
    """Why an answer ended; stop texts of the model's own count as its end."""
    if finished.reason == "length":
        return Ending(stop_reason="max_tokens")
    if finished.stop_text in stop_sequences:
        return Ending(stop_reason="stop_sequence", stop_sequence=finished.stop_text)
    return Ending(stop_reason="tool_use" if called else "end_turn")


def usage_of(finished: Finished) -> Usage:
    """The tokens of an answer; what the cache had of its prompt is told apart from what had to be read."""
    counts = finished.counts
    return Usage(
        input_tokens=counts.prompt_tokens - counts.cached_tokens,
        cache_read_input_tokens=counts.cached_tokens,
        output_tokens=counts.generated_tokens,
    )
