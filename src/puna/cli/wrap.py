"""Word wrap for text that comes piece by piece."""

import unicodedata

_LEAST_WIDTH = 10
_MARGIN = 5
_TAB = 8


class Wrapper:
    """Wraps text at `width` - 5 columns; not at all below 10 columns, as Ollama does.

    A word is shown while it grows. Where it turns out too long for its line, it is taken back and shown again
    on the next one. A word that is longer than a line is left to the terminal.
    """

    def __init__(self, width: int) -> None:
        """
        Args:
            width: columns of the terminal; 0 to wrap nothing.
        """
        self._limit = width - _MARGIN if width >= _LEAST_WIDTH else 0
        self._column = 0
        self._word = ""
        self._word_width = 0

    def feed(self, text: str) -> str:
        """What to write to the terminal for the next piece of text, which must not steer it."""
        return "".join(map(self._step, text)) if self._limit else text

    def _step(self, char: str) -> str:
        if char == "\n":
            return self._break(char)
        width = columns(char, self._column)
        if self._column + width > self._limit and char.isspace():
            return self._break("\n")
        line_end = ""
        if self._column + width > self._limit and self._word_width < self._column:
            back = f"\x1b[{self._word_width}D\x1b[K" if self._word else ""
            line_end = f"{back}\n{self._word}"
            self._column = self._word_width
        self._column += width
        self._grow(char, width)
        return line_end + char

    def _break(self, shown: str) -> str:
        self._column = self._word_width = 0
        self._word = ""
        return shown

    def _grow(self, char: str, width: int) -> None:
        if char.isspace() or width > 1:  # between ideographs a line may break anywhere
            self._word, self._word_width = "", 0
        else:
            self._word += char
            self._word_width += width


def columns(char: str, at: int = 0) -> int:
    """How many columns of a terminal a character takes, `at` columns from the left."""
    if char == "\t":
        return _TAB - at % _TAB
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1
