"""Answers made of messages: a header says whom each is for, and a body follows.

<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…<|return|>
"""

from collections.abc import Callable
from dataclasses import dataclass

from puna.chat.events import Content
from puna.chat.parsers.calls import attempt
from puna.chat.parsers.stream import Body, Kind, Malformed, Steps, Stream, Tags

HEADER_LIMIT = 1024
# A header that the answer's end cuts off is no text anyone should see, unless it is too long to be one.
STUB_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Messages:
    """How a family writes its messages.

    Attributes:
        begin: the tags in headers; text between messages ends at them.
        resume: what the first header may begin with besides, for the prompt has written its beginning.
        message: the tag between header and body.
        ends: the tags after a body.
        route: what to do with the body after this header: text of a kind, or the steps that read a call.
        shows_headers: a body that makes no call comes back with its header.
    """

    begin: tuple[str, ...]
    resume: tuple[str, ...]
    message: str
    ends: tuple[str, ...]
    route: Callable[[str, Stream], Kind | Body]
    shows_headers: bool

    def tokens(self) -> tuple[str, ...]:
        """All the tags, which the decoder has to leave in the text."""
        return (*self.begin, self.message, *self.ends)


def conversation(stream: Stream, messages: Messages, body_open: Kind | None) -> Steps[None]:
    """The steps of an answer.

    Args:
        body_open: the prompt ends inside a body of this kind; None if it ends where a header may go on.
    """
    openings = (*messages.begin, messages.message)
    outside = Tags(*openings)
    if body_open:
        mark = yield from _text(stream, messages, body_open)
    else:
        mark = yield from _between(stream, *messages.resume, *openings)
    while True:
        if not mark:
            found = yield from stream.text_until(outside, Content)
            if found is None:
                return
            mark = found
        mark = yield from _message(stream, messages, mark)


def _between(stream: Stream, *openings: str) -> Steps[str]:
    """The tag that comes next after white space, "" if something else does."""
    yield from stream.hold_space()
    mark = yield from stream.accept(*openings)
    if mark:
        stream.drop_space()
    return mark


def _message(stream: Stream, messages: Messages, opening: str) -> Steps[str]:
    """One message; the tag that opens the next one, if it was read."""
    stream.begin(opening, Content)
    try:
        header = yield from _header(stream, messages, opening)
    except Malformed:
        raw = stream.end()
        if not stream.ended or len(raw) > STUB_LIMIT:
            stream.text(Content, raw)
        return ""
    shown = stream.end() if messages.shows_headers else ""
    stream.end()
    route = messages.route(header, stream)
    if isinstance(route, type):
        return (yield from _text(stream, messages, route))
    if not (yield from attempt(stream, shown, route)):
        return (yield from _text(stream, messages, Content))
    return (yield from _between(stream, *messages.ends, *messages.begin))


def _header(stream: Stream, messages: Messages, opening: str) -> Steps[str]:
    header, mark = opening, opening
    after = Tags(messages.message, *messages.begin, *messages.ends)
    while mark != messages.message:
        text, mark = yield from stream.take_until(after, HEADER_LIMIT - len(header))
        header += text + mark
        if mark in messages.ends or len(header) > HEADER_LIMIT:
            raise Malformed
    return header.removesuffix(messages.message)


def _text(stream: Stream, messages: Messages, kind: Kind) -> Steps[str]:
    """A body that is text; the tag that opens the next message, if it was read."""
    tags = Tags(*messages.ends, *messages.begin)
    mark = yield from stream.text_until(tags, kind)
    if mark in messages.ends:
        return (yield from _between(stream, *messages.begin, messages.message))
    return mark or ""
