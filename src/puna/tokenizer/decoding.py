"""Token ids back to text, one at a time."""

import codecs
from collections.abc import Sequence

from puna.errors import InvalidOption


def checked(token: int, size: int) -> int:
    """The id itself.

    Raises:
        InvalidOption: the id is not in a vocabulary of `size` tokens.
    """
    if not 0 <= token < size:
        raise InvalidOption(f"token id {token} is outside the vocabulary of {size} tokens")
    return token


class IncrementalDecoder:
    """Decodes a stream of token ids; characters split over tokens come out when they are complete.

    Bytes that can never become a character come out as U+FFFD, as `bytes.decode(errors="replace")` gives.
    """

    __slots__ = ("_pending_space", "_pieces", "_utf8")

    def __init__(self, pieces: Sequence[bytes], *, strip_leading_space: bool = False) -> None:
        """
        Args:
            pieces: the bytes every token stands for in text.
            strip_leading_space: drop one space before the first text, as at the start of a text whose
                tokenizer puts one there.
        """
        self._pieces = pieces
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending_space = strip_leading_space

    def feed(self, token: int) -> str:
        """Text that this token completes; may be empty.

        Raises:
            InvalidOption: the id is outside the vocabulary.
        """
        piece = self._pieces[checked(token, len(self._pieces))]
        if self._pending_space and piece:
            self._pending_space = False
            piece = piece.removeprefix(b" ")
        return self._utf8.decode(piece)

    def flush(self) -> str:
        """What is left of an incomplete character, as U+FFFD; the decoder is then ready for new text."""
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return text
