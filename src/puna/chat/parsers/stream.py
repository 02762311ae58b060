"""An answer's text, read forwards once as it arrives, and the events made of it.

A format is written as steps: a generator that reads from a `Stream`, waits by yielding when the text that has
arrived does not decide yet, and goes on when there is more. So a format reads like its description, and text
may arrive in any pieces. Nothing is read twice, and nothing waits but what may still become a tag, the body
of a call (at most `CALL_LIMIT` characters) and a run of white space before a tag (at most `SPACE_LIMIT`).
"""

import re
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from itertools import groupby
from typing import Any, TypeVar

from puna.chat.events import Content, Event, Thinking, ToolCall

T = TypeVar("T")
Steps = Generator[None, None, T]
Kind = type[Content] | type[Thinking]
Schema = Mapping[str, Any]
Body = Callable[["Stream"], Steps[None]]

CALL_LIMIT = 1 << 20
SPACE_LIMIT = 1024
_UNLIMITED = sys.maxsize
_SPACE = re.compile(r"\s*")


class Malformed(Exception):
    """What was read is no call in this format; never leaves the parsers."""


class Tags:
    """Texts that are looked for together."""

    def __init__(self, *tags: str) -> None:
        longest_first = sorted(tags, key=len, reverse=True)
        self._tags = _one_of(longest_first)
        self._starts = _one_of({tag[0] for tag in tags})
        self._prefixes = frozenset(tag[:size] for tag in tags for size in range(1, len(tag)))
        self._longest = max(map(len, tags), default=1)

    def find(self, text: str, start: int, end: int, *, whole: bool) -> tuple[int, str]:
        """Where in `text[start:end]` the first tag begins, and the tag.

        The tag is empty where none is found; then what is before the place is free of tags, and what is after
        it may be the beginning of one. Of tags that begin at one place the longest counts.

        Args:
            whole: nothing follows `end`, so nothing can become a tag.
        """
        if self._starts.search(text, start, end) is None:
            return end, ""
        found = self._tags.search(text, start, end)
        unsure = end if whole else self._beginning(text, start, end)
        if found is None or found.start() >= unsure:
            return unsure, ""
        return found.start(), found[0]

    def _beginning(self, text: str, start: int, end: int) -> int:
        for found in self._starts.finditer(text, max(start, end - self._longest + 1), end):
            if text[found.start() : end] in self._prefixes:
                return found.start()
        return end


def _one_of(texts: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)")


class Stream:
    """One answer.

    Attributes:
        tools: the declared tools' names, each with the JSON schema of its parameters.
        calls: how many calls were made so far.
    """

    def __init__(self, tools: Mapping[str, Schema], *, trims: bool = True) -> None:
        """
        Args:
            tools: see above.
            trims: white space before a call or a closing thinking tag belongs to the format.
        """
        self.tools = tools
        self.calls = 0
        self._trims = trims
        self._text = ""
        self._at = 0
        self._closed = False
        self._events: list[Event] = []
        self._raw: list[str] | None = None
        self._raw_kind: Kind = Content
        self._room = _UNLIMITED
        self._kind: Kind = Content
        self._space = ""
        self._long_space = False

    # The side of whoever has the text.

    def feed(self, text: str) -> None:
        """More text has arrived."""
        self._text = self._text[self._at :] + text
        self._at = 0

    def close(self) -> None:
        """No more text will arrive."""
        self._closed = True

    def take_events(self) -> list[Event]:
        """The events since the last time, neighbouring texts joined."""
        if len(self._events) < 2:
            events, self._events = self._events, []
            return events
        joined: list[Event] = []
        for kind, group in groupby(self._events, type):
            if kind is ToolCall:
                joined += group
            else:
                texts = [event.text for event in group if not isinstance(event, ToolCall)]
                joined.append(Content("".join(texts)) if kind is Content else Thinking("".join(texts)))
        self._events.clear()
        return joined

    # Reading.

    @property
    def ended(self) -> bool:
        """Everything was read, and no more will arrive."""
        return self._closed and self._at == len(self._text)

    def text_until(self, tags: Tags, kind: Kind) -> Steps[str | None]:
        """Let text out up to the first of the tags, which is read and returned; None at the end."""
        while True:
            text, tag = self._step(tags, self._room)
            self.text(kind, text)
            if tag:
                return tag
            if self.ended:
                return None
            yield

    def take_until(self, tags: Tags, limit: int = CALL_LIMIT) -> Steps[tuple[str, str]]:
        """The text up to the first of the tags, and the tag.

        Raises:
            Malformed: none comes within `limit` characters.
        """
        parts: list[str] = []
        while True:
            text, tag = self._step(tags, min(limit, self._room))
            parts.append(text)
            limit -= len(text)
            if tag:
                return "".join(parts), tag
            if limit <= 0 or self._room <= 0 or self.ended:
                raise Malformed
            yield from self._more()

    def accept(self, *tags: str) -> Steps[str]:
        """The one of the tags that comes next, which is read; the longest; "" where none does."""
        longest = max(map(len, tags))
        while True:
            ahead = self._text[self._at : self._at + longest]
            undecided = any(len(tag) > len(ahead) and tag.startswith(ahead) for tag in tags)
            if not undecided or not (yield from self._more()):
                break
        found = max((tag for tag in tags if ahead.startswith(tag)), key=len, default="")
        self._read(len(found))
        return found

    def expect(self, *tags: str) -> Steps[str]:
        """As `accept`. Raises: Malformed: none of the tags comes next."""
        found = yield from self.accept(*tags)
        if not found:
            raise Malformed
        return found

    def take_while(self, pattern: re.Pattern[str], limit: int) -> Steps[str]:
        """The characters that come next and match, possibly none.

        Args:
            pattern: any number of one class of characters, as in `[a-z]*`.

        Raises:
            Malformed: there are `limit` or more.
        """
        parts: list[str] = []
        while True:
            found = pattern.match(self._text, self._at, min(len(self._text), self._at + limit))
            parts.append(self._read(found.end() - self._at if found else 0))
            limit -= len(parts[-1])
            if limit <= 0:
                raise Malformed
            if self._at < len(self._text) or not (yield from self._more()):
                return "".join(parts)

    def take(self) -> Steps[str]:
        """The next character. Raises: Malformed: there is none."""
        while self._at == len(self._text):
            if self.ended:
                raise Malformed
            yield from self._more()
        return self._read(1)

    def peek(self) -> Steps[str]:
        """The next character, which stays unread; "" at the end."""
        while self._at == len(self._text) and (yield from self._more()):
            pass
        return self._text[self._at : self._at + 1]

    def space(self) -> Steps[str]:
        """The white space that comes next, possibly none. Raises: Malformed: there is too much."""
        return (yield from self.take_while(_SPACE, CALL_LIMIT))

    def skip_space(self) -> Steps[None]:
        """Read white space, which is the format's."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._read(found.end() - self._at if found else 0)
            if self._at < len(self._text) or not (yield from self._more()):
                return

    def hold_space(self) -> Steps[None]:
        """Read white space, to be let out with the next text (`release`), or not at all (`drop_space`)."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._hold(self._read(found.end() - self._at if found else 0))
            if self._at < len(self._text) or not (yield from self._more()):
                return

    def _step(self, tags: Tags, room: int) -> tuple[str, str]:
        end = min(len(self._text), self._at + room)
        whole = self._closed or end < len(self._text)
        place, tag = tags.find(self._text, self._at, end, whole=whole)
        text = self._read(place - self._at)
        if tag:
            self._read(len(tag))
        return text, tag

    def _read(self, size: int) -> str:
        within = min(size, self._room)
        text = self._text[self._at : self._at + within]
        self._at += within
        if self._raw is not None and size:
            self._raw.append(text)
            self._room -= within
            if within < size:
                raise Malformed
        return text

    def _more(self) -> Steps[bool]:
        """Wait for more text; whether there is."""
        unread = len(self._text) - self._at
        while not self._closed:
            yield
            if len(self._text) - self._at > unread:
                return True
        return False

    # Attempts: what was read comes back as text, unless it makes calls.

    def begin(self, opening: str, kind: Kind) -> None:
        """Keep what is read from here on, after `opening`, which was read already.

        Args:
            kind: of text that comes back.
        """
        self._raw = [opening]
        self._raw_kind = kind
        self._room = CALL_LIMIT

    def end(self) -> str:
        """What was read since the beginning, the last call or the last spill."""
        raw = "".join(self._raw or ())
        self._raw, self._room = None, _UNLIMITED
        return raw

    def forget(self) -> None:
        """What was read so far belongs to the calls that were made."""
        self.begin("", self._raw_kind)

    def spill(self, keep: str = "") -> None:
        """Let out as text what was read, except its end `keep`, and go on."""
        self.text(self._raw_kind, self.end().removesuffix(keep))
        self.begin(keep, self._raw_kind)

    # Events.

    def text(self, kind: Kind, text: str) -> None:
        """Let text out; white space at its end is held until more is known, if this stream trims."""
        if not text:
            return
        body = text.rstrip() if self._trims else text
        if body or kind is not self._kind:
            self.release()
            self._kind = kind
        self._emit(kind, body)
        if len(body) < len(text):
            self._hold(text[len(body) :])

    def call(self, name: str, arguments: dict[str, Any], id: str | None = None) -> None:
        """A call is complete; what was read for it is accounted for."""
        if self._trims:
            self.drop_space()
        self.release()
        self._events.append(ToolCall(self.calls, name, arguments, id))
        self.calls += 1
        if self._raw is not None:
            self.forget()

    def release(self) -> None:
        """Let held white space out."""
        self._emit(self._kind, self._space)
        self._space, self._long_space = "", False

    def drop_space(self) -> None:
        """Forget held white space: it belongs to the format."""
        self._space, self._long_space = "", False

    def _hold(self, space: str) -> None:
        self._space += space
        if len(self._space) > SPACE_LIMIT or self._long_space:
            self._emit(self._kind, self._space)
            self._space, self._long_space = "", True

    def _emit(self, kind: Kind, text: str) -> None:
        if text:
            self._events.append(kind(text))
