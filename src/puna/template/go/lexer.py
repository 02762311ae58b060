"""Cuts a template into tokens.

Source: the documentation of Go's text/template ("Text and spaces", "Actions", "Arguments") and the Go
language's specification of literals.
"""

import re
from collections.abc import Generator, Iterator
from enum import Enum, auto
from typing import NamedTuple, NoReturn

from puna.errors import TemplateError

_SPACE = " \t\r\n"
_LEFT, _RIGHT = "{{", "}}"
_CLOSING = re.compile(r"[ \t\r\n]+-\}\}|\}\}")
_COMMENT_END = re.compile(r"([ \t\r\n]-)?\}\}")
# A word ends before one of these, or before the closing braces.
_END_OF_WORD = r"(?=[ \t\r\n.,|:()]|\}\}|\Z)"
# Atomic: a number followed by a letter is no shorter number.
_NUMBER = r"""(?>[+-]?(?:0[xX][0-9a-fA-F_]*(?:\.[0-9a-fA-F_]*)?(?:[pP][+-]?[0-9_]*)?
    |0[oO][0-7_]*(?:\.[0-7_]*)?|0[bB][01_]*(?:\.[01_]*)?|[0-9_]*(?:\.[0-9_]*)?(?:[eE][+-]?[0-9_]*)?)i?)(?!\w)"""
_TOKEN = re.compile(
    rf"""(?P<SPACE>[ \t\r\n]+)
    |(?P<STRING>"(?:\\.|[^"\\\n])*")|(?P<RAW>`[^`]*`)|(?P<CHARACTER>'(?:\\.|[^'\\\n])*')
    |(?P<FIELD>\.[^\W\d]\w*{_END_OF_WORD})|(?P<DOT>\.{_END_OF_WORD})
    |(?P<VARIABLE>\$\w*{_END_OF_WORD})|(?P<WORD>[^\W\d]\w*{_END_OF_WORD})
    |(?P<NUMBER>(?=[-+]?\.?[0-9]){_NUMBER}(?:(?<!i)[+-]{_NUMBER}(?<=i))?)(?![+-])
    |(?P<DECLARE>:=)|(?P<ASSIGN>=)|(?P<PIPE>\|)|(?P<OPEN>\()|(?P<CLOSE>\))|(?P<COMMA>,)""",
    re.VERBOSE,
)
_UNCLOSED = {
    '"': "a text begins here and has no closing quote on its line",
    "'": "a character begins here and has no closing quote on its line",
    "`": "a text begins here and has no closing backquote",
}
KEYWORDS = frozenset(
    ("if", "else", "end", "range", "with", "define", "block", "template", "break", "continue", "nil")
)


class Kind(Enum):
    """What a token is."""

    TEXT = auto()
    LEFT = auto()
    RIGHT = auto()
    SPACE = auto()
    STRING = auto()
    RAW = auto()
    CHARACTER = auto()
    FIELD = auto()
    DOT = auto()
    VARIABLE = auto()
    WORD = auto()
    KEYWORD = auto()
    BOOL = auto()
    NUMBER = auto()
    DECLARE = auto()
    ASSIGN = auto()
    PIPE = auto()
    OPEN = auto()
    CLOSE = auto()
    COMMA = auto()
    END = auto()


class Token(NamedTuple):
    """A piece of the source."""

    kind: Kind
    text: str
    position: int


def fault(source: str, position: int, message: str) -> TemplateError:
    """The error for a fault at an offset of the source."""
    start = source.rfind("\n", 0, position) + 1
    end = source.find("\n", position)
    line = source[start : end if end >= 0 else len(source)]
    column = position - start
    first = max(column - 60, 0)
    caret = " " * (column - first) + "^"
    excerpt = f"{line[first : first + 100]}\n{caret}"
    return TemplateError(message, source.count("\n", 0, position) + 1, column + 1, excerpt)


def tokens(source: str) -> Iterator[Token]:
    """The tokens of a template, the last of kind END. Comments are left out.

    Raises:
        TemplateError: an action, comment or literal that is not well formed.
    """
    position, trims = 0, False
    while True:
        opening = source.find(_LEFT, position)
        yield from _text(source, position, opening, trims)
        if opening < 0:
            yield Token(Kind.END, "", len(source))
            return
        inside = opening + (4 if _trims_left(source, opening) else 2)
        if source.startswith("/*", inside):
            closing = _comment_end(source, inside)
        else:
            yield Token(Kind.LEFT, _LEFT, opening)
            closing = yield from _action(source, inside)
            yield Token(Kind.RIGHT, _RIGHT, closing.start())
        position, trims = closing.end(), len(closing[0]) > len(_RIGHT)


def _trims_left(source: str, opening: int) -> bool:
    return source.startswith("-", opening + 2) and source[opening + 3 : opening + 4] in tuple(_SPACE)


def _text(source: str, position: int, opening: int, trims: bool) -> Iterator[Token]:
    text = source[position : opening if opening >= 0 else len(source)]
    if trims:
        text = text.lstrip(_SPACE)
    if opening >= 0 and _trims_left(source, opening):
        text = text.rstrip(_SPACE)
    if text:
        yield Token(Kind.TEXT, text, position)


def _comment_end(source: str, start: int) -> re.Match[str]:
    end = source.find("*/", start + 2)
    if end < 0:
        raise fault(source, start, "a comment begins here and is not closed")
    closing = _COMMENT_END.match(source, end + 2)
    if closing is None:
        raise fault(source, end, "a comment must end right before the closing braces")
    return closing


def _action(source: str, position: int) -> Generator[Token, None, re.Match[str]]:
    """The tokens of one action; returns the match of its closing braces."""
    while not (closing := _CLOSING.match(source, position)):
        match = _TOKEN.match(source, position)
        if match is None or match.lastgroup is None:
            _unknown(source, position)
        yield Token(_kind(match.lastgroup, match[0]), match[0], position)
        position = match.end()
    return closing


def _kind(group: str, text: str) -> Kind:
    if group == "WORD" and text in KEYWORDS:
        return Kind.KEYWORD
    if group == "WORD" and text in ("true", "false"):
        return Kind.BOOL
    return Kind[group]


def _unknown(source: str, position: int) -> NoReturn:
    if position >= len(source):
        raise fault(source, source.rfind(_LEFT), "an action begins here and has no closing braces")
    character = source[position]
    message = _UNCLOSED.get(character, f"{source[position : position + 20]!r} is not understood here")
    raise fault(source, position, message)
