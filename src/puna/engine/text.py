"""From tokens to text that may be shown: whole characters, and nothing of a stop string."""

from collections.abc import Sequence
from typing import Protocol


class Decoder(Protocol):
    """Turns tokens into whole characters, see `puna.tokenizer.IncrementalDecoder`."""

    def feed(self, token: int, /) -> str:
        """Text that the token completes."""

    def flush(self) -> str:
        """What is left of an incomplete character."""


class StopFilter:
    """Lets text through up to the first stop string, and holds back what could still become one.

    Attributes:
        stopped: a stop string has appeared; the text ends before it.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = [text for text in stop if text]
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """What of the text so far may be shown and was not yet, possibly empty."""
        if self.stopped:
            return ""
        self._held += text
        ends = [found for stop in self._stop if (found := self._held.find(stop)) >= 0]
        if ends:
            self.stopped = True
            text, self._held = self._held[: min(ends)], ""
            return text
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text

    def flush(self) -> str:
        """What is still held back, at the end of the text."""
        text, self._held = self._held, ""
        return text


class TextStream:
    """Decodes one answer's tokens and holds text back while it could still become a stop string."""

    def __init__(self, decoder: Decoder, stop: Sequence[str] = ()) -> None:
        self._decoder = decoder
        self._filter = StopFilter(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has appeared; the text ends before it."""
        return self._filter.stopped

    def feed(self, token: int) -> str:
        """Text that the token completes, possibly empty."""
        return self._filter.feed(self._decoder.feed(token))

    def flush(self) -> str:
        """What is still held back, at the end of the answer."""
        return self._filter.feed(self._decoder.flush()) + self._filter.flush()


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
