"""Reading Modelfiles: Ollama's grammar, with every error placed.

A text is a series of commands, each with a value that ends with its line:

    FROM ./model.gguf               a value as it stands, without the blanks around it
    PARAMETER stop "<|end|>"        quoted: ends with the quote that is the last thing on its line
    TEMPLATE \"\"\"{{ .Prompt }}
    {{ .Response }}\"\"\"              the same with three quotes; nothing inside is an escape
    # a comment, only where a command could begin

Differences from Ollama, none of which another reading of a working file depends on: a line ends with CR LF as
well as with either alone and counts once; several blanks may follow `PARAMETER` and `MESSAGE`; of the
characters without a shape of their own only control characters are dropped from values, so that joined emoji
and no-break spaces stay whole.

One command is new, `CONTINUE <value>`: it goes on with the value of the command before it. Ollama's grammar
has no way to write a text with a line that ends in three quotes; `puna.modelfile.formatter` needs `CONTINUE`
for those only. Ollama refuses it with its error for unknown commands, so no file changes its meaning.

Source: Ollama's documentation of the Modelfile and the behaviour of its parser.
"""

import re
from bisect import bisect_right
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from pathlib import Path

from puna.errors import FormatError, ModelfileError
from puna.modelfile.commands import BLANKS, COMMANDS, ROLES, Command, Modelfile, Position, clean
from puna.regular import regular_only

MAX_BYTES = 32 << 20
"""The longest Modelfile that is read, in bytes."""

MAX_COMMANDS = 100_000

_INVALID_COMMAND = (
    'command must be one of "from", "license", "template", "system", "adapter", "draft", "renderer", '
    '"parser", "parameter", "message", or "requires"'
)
_INVALID_ROLE = 'message role must be one of "system", "user", or "assistant"'
_UNEXPECTED_END = "unexpected EOF"

_LINE_END = re.compile(r"\r\n|\r|\n")
_GAP = re.compile(rf"(?:[\r\n{BLANKS}]|#[^\r\n]*+)*+")
_OUTER = re.compile(f"[{BLANKS}]*+")
_WORD = re.compile("[A-Za-z]*+")
_KEYS = {"parameter": re.compile("[A-Za-z0-9_]*+"), "message": _WORD}
_CONTINUE = re.compile("continue(?=[ \t])", re.IGNORECASE | re.ASCII)
_BARE = re.compile(r"[^\r\n]*+")
_CLOSING = {quote: re.compile(rf"{quote}(?=[{BLANKS}]*+(?:[\r\n]|\Z))") for quote in ('"""', '"')}


def read(path: Path) -> Modelfile:
    """The Modelfile in the file `path`.

    Raises:
        FormatError: it cannot be read, is no regular file, or as `parse`.
        ModelfileError: as `parse`.
    """
    try:
        refusal = FormatError(f"{path} is not a regular file")
        with open(path, "rb", opener=regular_only(refusal)) as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FormatError(f"{path}: cannot be read: {reason}") from error
    return parse(content)


def parse(text: str | bytes) -> Modelfile:
    """The Modelfile that `text` describes.

    Args:
        text: bytes in UTF-8, or in UTF-16 of either byte order with a byte order mark. What is no text in
            that encoding becomes U+FFFD. Control characters other than tabs and line ends count for nothing,
            also not in columns.

    Raises:
        FormatError: it is longer than `MAX_BYTES` or has more than `MAX_COMMANDS` commands.
        ModelfileError: it breaks the grammar or has no `FROM`.
    """
    if len(text) > MAX_BYTES:
        raise FormatError(f"the Modelfile is longer than the {MAX_BYTES} bytes that are read")
    decoded = _decode(text) if isinstance(text, bytes) else text.removeprefix("\ufeff")
    return Modelfile(tuple(_Reader(clean(decoded)).commands()))


def read_value(text: str, start: int = 0) -> tuple[str, int] | None:
    """The value that follows at `start` and where it ends; None when its closing quote is missing."""
    start = _skip(_OUTER, text, start)
    for quote, closing in _CLOSING.items():
        if text.startswith(quote, start):
            end = closing.search(text, start + len(quote))
            return end and (text[start + len(quote) : end.start()], end.end())
    end_of_line = _skip(_BARE, text, start)
    return text[start:end_of_line].rstrip(BLANKS), end_of_line


class _Reader:
    """A position in a text, moved by the methods."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._offset = 0
        self._lines = [0, *(match.end() for match in _LINE_END.finditer(text))]

    def commands(self) -> Iterator[Command]:
        """Every command to the end of the text."""
        count, has_from = 0, False
        while self._advance(_GAP) < len(self._text):
            count += 1
            if count > MAX_COMMANDS:
                raise FormatError(f"the Modelfile has more than the {MAX_COMMANDS} commands that are read")
            command = self._command()
            has_from = has_from or command.name == "from"
            yield command
        if not has_from:
            raise self._error("no FROM line", len(self._text))

    def _command(self) -> Command:
        start = self._offset
        name = self._name()
        key = self._key(name) if name in _KEYS else ""
        value_start = self._advance(_OUTER)
        return Command(name, self._value(), key, self._place(start), self._place(value_start))

    def _name(self) -> str:
        start = self._offset
        name = self._text[start : self._advance(_WORD)].lower()
        if name and self._offset == len(self._text):
            raise self._error(_UNEXPECTED_END, self._offset)
        if name not in COMMANDS or not self._at_blank():
            raise self._error(_INVALID_COMMAND, start)
        return name

    def _key(self, name: str) -> str:
        start = self._advance(_OUTER)
        key = self._text[start : self._advance(_KEYS[name])]
        if not key or not self._at_blank():
            shown = f": {key[:100]}" if key and self._offset < len(self._text) else ""
            raise self._error(_UNEXPECTED_END + shown, self._offset)
        if name == "message" and key not in ROLES:
            raise self._error(_INVALID_ROLE, start)
        return key

    def _value(self) -> str:
        pieces = [self._piece()]
        while self._advance(_GAP) < self._advance(_CONTINUE):
            pieces.append(self._piece())
        return "".join(pieces)

    def _piece(self) -> str:
        found = read_value(self._text, self._offset)
        if found is None:
            raise self._error(f"{_UNEXPECTED_END}: the closing quote is missing", self._advance(_OUTER))
        value, self._offset = found
        return value

    def _at_blank(self) -> bool:
        return self._text.startswith((" ", "\t"), self._offset)

    def _advance(self, pattern: re.Pattern[str]) -> int:
        """Step over what matches here, if anything does, and return the new offset."""
        self._offset = _skip(pattern, self._text, self._offset)
        return self._offset

    def _error(self, message: str, offset: int) -> ModelfileError:
        return ModelfileError(message, *self._place(offset))

    def _place(self, offset: int) -> Position:
        line = bisect_right(self._lines, offset)
        return Position(line, offset - self._lines[line - 1] + 1)


def _skip(pattern: re.Pattern[str], text: str, offset: int) -> int:
    match = pattern.match(text, offset)
    return match.end() if match else offset


def _decode(raw: bytes) -> str:
    for mark, encoding in ((BOM_UTF8, "utf-8"), (BOM_UTF16_LE, "utf-16-le"), (BOM_UTF16_BE, "utf-16-be")):
        if raw.startswith(mark):
            return raw[len(mark) :].decode(encoding, "replace")
    return raw.decode("utf-8", "replace")
