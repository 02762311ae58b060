"""From tokens to text that may be shown: whole characters, and nothing of a stop string."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from puna.engine.events import TextChunk, TokenLogprob


class Decoder(Protocol):
    """Turns tokens into whole characters, see `puna.tokenizer.IncrementalDecoder`."""

    def feed(self, token: int, /) -> str:
        """Text that the token completes."""

    def flush(self) -> str:
        """What is left of an incomplete character."""


class StopFilter:
    """Lets text through up to the first stop string, and holds back what could still become one.

    Attributes:
        stop_text: the stop string that has appeared; empty before.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = [text for text in stop if text]
        self._held = ""
        self.stop_text = ""

    @property
    def stopped(self) -> bool:
        """A stop string has appeared; the text ends before it."""
        return bool(self.stop_text)

    def feed(self, text: str) -> str:
        """What of the text so far may be shown and was not yet, possibly empty."""
        if not self._stop:
            return text
        if self.stopped:
            return ""
        self._held += text
        ends = [(found, stop) for stop in self._stop if (found := self._held.find(stop)) >= 0]
        if ends:
            end, self.stop_text = min(ends, key=lambda found: found[0])
            text, self._held = self._held[:end], ""
            return text
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text

    def flush(self) -> str:
        """What is still held back, at the end of the text."""
        text, self._held = self._held, ""
        return text


class TextStream:
    """Decodes one answer's tokens and holds text back while it could still become a stop string.

    Attributes:
        decoded: how many characters the tokens have made.
        shown: how many of them have been let through.
    """

    def __init__(self, decoder: Decoder, stop: Sequence[str] = ()) -> None:
        self._decoder = decoder
        self._filter = StopFilter(stop)
        self.decoded = 0
        self.shown = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string has appeared; the text ends before it."""
        return self._filter.stopped

    @property
    def stop_text(self) -> str:
        """That stop string; empty while none has appeared."""
        return self._filter.stop_text

    def feed(self, token: int) -> str:
        """Text that may be shown now that the token is known, possibly empty."""
        decoded = self._decoder.feed(token)
        self.decoded += len(decoded)
        text = self._filter.feed(decoded)
        self.shown += len(text)
        return text

    def flush(self) -> str:
        """What is still held back, at the end of the answer."""
        decoded = self._decoder.flush()
        self.decoded += len(decoded)
        text = self._filter.feed(decoded) + self._filter.flush()
        self.shown += len(text)
        return text


@dataclass(frozen=True, slots=True)
class _Span:
    """Characters of an answer, and the tokens that they come from."""

    begin: int
    end: int
    tokens: tuple[TokenLogprob, ...]


class Transcript:
    """One answer's text and, where they are wanted, the log-probabilities of the tokens it comes from.

    A token comes with the piece of text that has the last of its characters. One that completes no character
    goes with the token that does. What a stop string cuts off whole is left out.
    """

    def __init__(self, stream: TextStream) -> None:
        self._stream = stream
        self._incomplete: list[TokenLogprob] = []
        self._spans: deque[_Span] = deque()

    @property
    def stopped(self) -> bool:
        """Whether a stop string has appeared; the text ends before it."""
        return self._stream.stopped

    @property
    def stop_text(self) -> str:
        """That stop string; empty while none has appeared."""
        return self._stream.stop_text

    def feed(self, token: int, logprob: TokenLogprob | None = None) -> TextChunk | None:
        """The piece that may be shown now that the token is known, if there is one."""
        begin = self._stream.decoded
        text = self._stream.feed(token)
        if logprob is None:
            return TextChunk(text) if text else None
        self._incomplete.append(logprob)
        if self._stream.decoded > begin:
            self._close_span(begin)
        return self._chunk(text)

    def finish(self) -> TextChunk | None:
        """The last piece, at the end of the answer, if there is one."""
        begin = self._stream.decoded
        text = self._stream.flush()
        if self._incomplete:
            self._close_span(begin)
        return self._chunk(text, last=True)

    def _close_span(self, begin: int) -> None:
        self._spans.append(_Span(begin, self._stream.decoded, tuple(self._incomplete)))
        self._incomplete.clear()

    def _chunk(self, text: str, *, last: bool = False) -> TextChunk | None:
        tokens: list[TokenLogprob] = []
        while self._spans and self._is_shown(self._spans[0], last):
            tokens += self._spans.popleft().tokens
        return TextChunk(text, tuple(tokens)) if text or tokens else None

    def _is_shown(self, span: _Span, last: bool) -> bool:
        """Whether the span is shown whole, or as much of it as ever will be."""
        shown = self._stream.shown
        return span.end <= shown or (span.begin < shown and (last or self._stream.stopped))


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
