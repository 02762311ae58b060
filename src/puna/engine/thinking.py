"""Where what a model thinks before it answers begins, and a limit on it."""

from codecs import getincrementaldecoder
from collections.abc import Iterable, Sequence

from puna.sampling.grammar import Thinking
from puna.tokenizer import Tokenizer

_UTF8 = getincrementaldecoder("utf-8")
_LONGEST_CHARACTER = 4


def ends_with(tokenizer: Tokenizer, prompt: Sequence[int], text: str) -> bool:
    """Whether the prompt's text, but for white space, ends with this."""
    # Each byte is at most one token, and templates put a line end or two behind.
    tail = b"".join(tokenizer.pieces[id] for id in prompt[-len(text.encode()) - 8 :])
    return tail.rstrip().endswith(text.encode())


class ThinkingLimit:
    """Tells when a model has thought enough, and with which tokens its thoughts end.

    It reads the text of the answer: thoughts begin with their tag, or have begun in the prompt. An answer
    that begins with anything else has none.

    Args:
        budget: most tokens of thoughts, tags not counted; a few more may complete a character.
        opened: the prompt ends with the opening tag.
        ending: the tokens of the closing tag.
        pieces: for each token the bytes that it stands for.
    """

    def __init__(
        self, tags: Thinking, budget: int, *, opened: bool, ending: list[int], pieces: Sequence[bytes]
    ) -> None:
        self._opening = tags.opening.encode()
        self._closing = tags.closing.encode()
        self._left = budget
        self._thinks: bool | None = True if opened else None
        self._ending = ending
        self._pieces = pieces
        self._text = b""
        self._decoder = _UTF8("replace")

    def ending(self) -> list[int]:
        """The tokens that must come now, once; none while the model may go on."""
        if not self._thinks or self._left > 0 or self._is_within_a_character():
            return []
        self._thinks = False
        return self._ending

    def _is_within_a_character(self) -> bool:
        """A grammar would not let the tag follow."""
        return bool(self._decoder.getstate()[0]) and self._left > -_LONGEST_CHARACTER

    def accept(self, tokens: Iterable[int]) -> None:
        """Note that these tokens were chosen."""
        for token in tokens:
            if self._thinks is None:
                self._begin(self._pieces[token])
            elif self._thinks:
                self._go_on(self._pieces[token])

    def _begin(self, piece: bytes) -> None:
        self._text = (self._text + piece).lstrip()
        if self._text.startswith(self._opening):
            self._thinks, self._text = True, b""
        elif not self._opening.startswith(self._text):
            self._thinks = False

    def _go_on(self, piece: bytes) -> None:
        self._left -= 1
        self._decoder.decode(piece)
        text = self._text + piece
        self._thinks = self._closing not in text
        self._text = text[-len(self._closing) :]
