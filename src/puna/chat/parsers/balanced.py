"""Text in brackets, from an opening one to its closing one, whatever the quotes between them hold."""

from collections.abc import Mapping

from puna.chat.parsers.stream import Malformed, Steps, Stream, Tags

# The deepest that brackets may nest. What reads a balanced text afterwards may recurse, and goes no deeper.
DEPTH_LIMIT = 64
# What may follow a string in a literal, besides the end of the text.
AFTER_STRING = ",:)]}"
_ESCAPE = "\\"


class Notation:
    """How a notation quotes.

    Args:
        quotes: each with whether a backslash escapes the character that follows it.
        foreign: characters that never stand outside quotes, where they show that the text is something else.
        careless: models leave quotes inside strings as they are; strings end only before what may follow.
    """

    def __init__(self, quotes: Mapping[str, bool], foreign: str = "", *, careless: bool = False) -> None:
        self.careless = careless
        self.marks = Tags(*"()[]{}", *quotes, *foreign)
        self.quotes = {quote: Tags(quote, *[_ESCAPE] * escapes) for quote, escapes in quotes.items()}


JSON = Notation({'"': True}, foreign="<>'`()|;=")
PYTHON = Notation({'"': True, "'": True}, careless=True)


def group(stream: Stream, opening: str, notation: Notation) -> Steps[str]:
    """The text from an opening bracket, which was read already, to its closing one, both included.

    Raises:
        Malformed: it does not end, nests too deep, or holds what is foreign to the notation.
    """
    parts = [opening]
    depth = 1
    while depth:
        text, mark = yield from stream.take_until(notation.marks)
        parts += text, mark
        if mark in notation.quotes:
            parts += yield from _quoted(stream, mark, notation)
        elif mark in "([{":
            depth += 1
        elif mark in ")]}":
            depth -= 1
        else:
            raise Malformed
        if depth > DEPTH_LIMIT:
            raise Malformed
    return "".join(parts)


def _quoted(stream: Stream, quote: str, notation: Notation) -> Steps[list[str]]:
    """What follows an opening quote, with the closing one."""
    parts: list[str] = []
    while True:
        text, mark = yield from stream.take_until(notation.quotes[quote])
        parts += text, mark
        if mark != quote:
            parts.append((yield from stream.take()))
        elif not notation.careless:
            return parts
        else:
            parts.append((yield from stream.space()))
            if (yield from stream.peek()) in AFTER_STRING:
                return parts
