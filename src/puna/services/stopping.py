"""Stop texts in the content of an answer, whose other events keep their places in it."""

from collections import deque
from collections.abc import Iterator, Sequence

from puna.chat.events import Content, Event
from puna.engine.text import StopFilter


class StoppedContent:
    """Lets events through until a stop text comes about in their content.

    Content that could still become a stop text is held back, and with it what comes after it: a call stands
    where the model made it.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._filter = StopFilter(stop)
        self._fed = self._shown = 0
        # Events, each with the characters of content that come before it.
        self._waiting: deque[tuple[int, Event]] = deque()

    @property
    def stopped(self) -> bool:
        """A stop text has come about, so nothing more is wanted."""
        return self._filter.stopped

    @property
    def stop_text(self) -> str:
        """That stop text; empty while none has."""
        return self._filter.stop_text

    def feed(self, event: Event) -> Iterator[Event]:
        """What may be shown now."""
        if isinstance(event, Content):
            self._fed += len(event.text)
            yield from self._released(self._filter.feed(event.text))
            if self.stopped:
                # They were there before the stop text was.
                yield from (waiting for _, waiting in self._waiting)
                self._waiting.clear()
        elif self.stopped:
            return
        elif self._fed > self._shown:
            self._waiting.append((self._fed, event))
        else:
            yield event

    def flush(self) -> Iterator[Event]:
        """What is still held back, at the end of the answer."""
        yield from self._released(self._filter.flush())

    def _released(self, text: str) -> Iterator[Event]:
        end = self._shown + len(text)
        while self._waiting and self._waiting[0][0] <= end:
            place, event = self._waiting.popleft()
            part, text = text[: place - self._shown], text[place - self._shown :]
            self._shown = place
            if part:
                yield Content(part)
            yield event
        self._shown = end
        if text:
            yield Content(text)
