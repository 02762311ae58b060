"""An answer on its way to the terminal."""

import json
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

import click

from puna.cli import terminal
from puna.cli.timings import timing_lines
from puna.cli.wrap import Wrapper
from puna.client.replies import Answer, ChatReply, GenerateReply, ToolCall

_BEGIN_THINKING = "Thinking...\n"
_END_THINKING = "...done thinking.\n\n"


@dataclass(slots=True)
class ShownAnswer:
    """An answer that is shown as it comes.

    Attributes:
        hides_thinking: what the model thinks is not shown.
        wrapper: wraps its words.
        content: what it has answered so far.
        thinking: what it has thought so far.
        last: the reply with the counts, once it is complete.
    """

    hides_thinking: bool
    wrapper: Wrapper
    content: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    last: Answer | None = None
    _thinks: bool = False

    def show(self, replies: Iterable[ChatReply | GenerateReply]) -> None:
        """Show it as it comes. Raises: PunaError, as the replies."""
        for reply in replies:
            thinking, content, calls = _parts(reply)
            if thinking:
                self._show_thinking(thinking)
            if content:
                self.end_thinking()
                self.content.append(content)
                self._write(content)
            for call in calls:
                self.end_thinking()
                self._write(_call_text(call))
            if reply.done:
                self.last = reply
        self.end_thinking()

    def end_thinking(self) -> None:
        """Close the thinking on the screen, if it is open."""
        if self._thinks:
            self._thinks = False
            line_end = "" if self.thinking[-1].endswith("\n") else "\n"
            self._write(line_end + _END_THINKING, grey=True)

    def _show_thinking(self, text: str) -> None:
        self.thinking.append(text)
        if self.hides_thinking:
            return
        self._write(text if self._thinks else _BEGIN_THINKING + text, grey=True)
        self._thinks = True

    def _write(self, text: str, *, grey: bool = False) -> None:
        terminal.show(text, grey=grey, wrap=self.wrapper.feed)


def new_answer(*, hides_thinking: bool, wraps: bool) -> ShownAnswer:
    """An answer that is about to come; words wrap if that is wanted and a terminal shows them."""
    live = wraps and terminal.is_terminal(sys.stdout)
    return ShownAnswer(hides_thinking, Wrapper(shutil.get_terminal_size().columns if live else 0))


def show_timings(answer: ShownAnswer) -> None:
    """The answer's timings, on standard error; nothing for one that did not come to its end."""
    if answer.last is not None:
        click.echo("\n".join(timing_lines(answer.last)), err=True)


def _parts(reply: ChatReply | GenerateReply) -> tuple[str, str, list[ToolCall]]:
    """Thinking, content and calls of a reply."""
    if isinstance(reply, ChatReply):
        message = reply.message
        return message.thinking, message.content, message.tool_calls or []
    return reply.thinking, reply.response, reply.tool_calls or []


def _call_text(call: ToolCall) -> str:
    arguments = json.dumps(call.function.arguments, ensure_ascii=False)
    return f"Model called a non-existent function '{call.function.name}()' with arguments: {arguments}\n"
