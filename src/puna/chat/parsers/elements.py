"""Values between tags, as in XML but not escaped."""

from puna.chat.parsers.stream import Steps, Stream, Tags


def element(stream: Stream, closing: str, *followers: str) -> Steps[tuple[str, str]]:
    """The text up to a closing tag, and which of the tags follows it, white space between them left out.

    A closing tag that none of them follows belongs to the text, unless the answer ends there: "" follows.

    Raises:
        Malformed: no such end comes.
    """
    tags = Tags(closing)
    parts: list[str] = []
    while True:
        text, _ = yield from stream.take_until(tags)
        space = yield from stream.space()
        follower = yield from stream.accept(*followers)
        if follower or stream.ended:
            return "".join((*parts, text)), follower
        parts += text, closing, space
