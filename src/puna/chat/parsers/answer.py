"""The plan that most formats share: thinking, then content, with calls between tags of their own."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from puna.chat.events import Content, Event, Thinking
from puna.chat.parsers.calls import attempt
from puna.chat.parsers.stream import Body, Schema, Steps, Stream, Tags


class Parser:
    """Turns one answer's text, as it arrives, into events; other pieces of the same text give the same."""

    def __init__(self, stream: Stream, steps: Steps[None]) -> None:
        self._stream = stream
        self._steps = steps
        next(steps, None)

    def feed(self, text: str) -> list[Event]:
        """The events that this text completes."""
        self._stream.feed(text)
        next(self._steps, None)
        return self._stream.take_events()

    def finish(self) -> list[Event]:
        """The events of what was held back, at the answer's end: nothing is fed after it."""
        self._stream.close()
        next(self._steps, None)
        self._stream.release()
        return self._stream.take_events()


@dataclass(frozen=True, slots=True)
class Format:
    """How a family of models writes.

    Attributes:
        calls: the tags that open calls, each with the steps that read what follows.
        leading: the same for what opens calls only at the beginning of the content.
        thinking: the opening tags, and the closing tag; None if the family never thinks in tags.
        thinks_anywhere: thinking may also begin after content.
        calls_while_thinking: a call ends the thinking.
        reply: the tags around the content, which models may leave out.
        ignored: tags that say nothing and are left out of content.
        marks: what else stands in calls and may be control tokens.
        trims: white space before a call or a closing thinking tag belongs to the format.
    """

    calls: Mapping[str, Body] = field(default_factory=dict)
    leading: Mapping[str, Body] = field(default_factory=dict)
    thinking: tuple[tuple[str, ...], str] | None = None
    thinks_anywhere: bool = False
    calls_while_thinking: bool = False
    reply: tuple[str, str] | None = None
    ignored: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    trims: bool = True

    def tokens(self) -> tuple[str, ...]:
        """All the tags, which the decoder has to leave in the text where they are control tokens."""
        opening, closing = self.thinking or ((), "")
        return tuple(
            dict.fromkeys(
                filter(
                    None, (*opening, closing, *self.calls, *self.marks, *(self.reply or ()), *self.ignored)
                )
            )
        )


def format_parser(format: Format, tools: Mapping[str, Schema], *, thinking_open: bool) -> Parser:
    """A parser for one answer in this format; see `puna.chat.parsers.registry.parser_for`."""
    stream = Stream(tools, trims=format.trims)
    return Parser(stream, answer(stream, format, thinking_open))


def answer(stream: Stream, format: Format, thinking_open: bool) -> Steps[None]:
    """The steps of an answer.

    Args:
        thinking_open: the prompt already ends with the opening thinking tag.
    """
    calls = format.calls if stream.tools else {}
    ignored = format.ignored
    if format.thinking:
        yield from _thinking(stream, format, thinking_open)
    if format.reply and (yield from stream.accept(format.reply[0])):
        ignored = (*ignored, format.reply[1])
    if stream.tools and format.leading:
        yield from _leading(stream, format)
    anywhere = format.thinking[0] if format.thinking and format.thinks_anywhere else ()
    tags = Tags(*calls, *anywhere, *ignored)
    while (tag := (yield from stream.text_until(tags, Content))) is not None:
        if tag in anywhere:
            stream.drop_space()
            yield from thought(stream, format)
        elif tag in calls and (yield from attempt(stream, tag, calls[tag])):
            yield from stream.skip_space()


def _leading(stream: Stream, format: Format) -> Steps[None]:
    yield from stream.hold_space()
    opening = yield from stream.accept(*format.leading)
    if opening and (yield from attempt(stream, opening, format.leading[opening])):
        yield from stream.skip_space()


def _thinking(stream: Stream, format: Format, already_open: bool) -> Steps[None]:
    """The thinking at the beginning, if there is any."""
    opening, _ = format.thinking or ((), "")
    yield from stream.hold_space()
    # Some models repeat the tag that the prompt ends with.
    if (yield from stream.accept(*opening)) or already_open:
        stream.drop_space()
        yield from thought(stream, format)


def thought(stream: Stream, format: Format) -> Steps[None]:
    """What follows an opening thinking tag, up to the closing one, and the white space after both."""
    _, closing = format.thinking or ((), "")
    calls = format.calls if stream.tools and format.calls_while_thinking else {}
    tags = Tags(closing, *calls)
    yield from stream.skip_space()
    while (tag := (yield from stream.text_until(tags, Thinking))) is not None:
        if tag == closing:
            stream.drop_space()
            yield from stream.skip_space()
            return
        if (yield from attempt(stream, tag, calls[tag], Thinking)):
            yield from stream.skip_space()
            yield from stream.accept(closing)
            yield from stream.skip_space()
            return
