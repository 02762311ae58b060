"""Keeping what people write from becoming control tokens.

A prompt is tokenized with its control tokens recognised, for the template writes them as text
(`<|im_end|>`). The same text inside a message must stay text. So a break, a character that Unicode assigns
to nobody, is put into each such place before rendering; the rendered prompt is cut at the breaks, and the
pieces are tokenized one by one.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from puna.errors import InvalidOption
from puna.template.fields import MAX_DEPTH

T = TypeVar("T")

_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
_HEAD = 3


class Shield:
    """Puts breaks into the control tokens of one model. Making one takes a while, using it does not.

    Attributes:
        singles: the control tokens of one character. They cannot be broken, so they come to stand between two
            breaks, and a piece of the prompt that is one of them is text.
    """

    def __init__(self, control_texts: Iterable[str]) -> None:
        """
        Args:
            control_texts: the texts of the model's control tokens.
        """
        self._by_head: dict[str, list[str]] = defaultdict(list)
        singles, beginnings = set[str](), set[str]()
        for text in filter(None, control_texts):
            if len(text) == 1:
                singles.add(text)
                continue
            lower = text.lower()
            self._by_head[lower[:_HEAD]].append(lower)
            beginnings.update(lower[:size] for size in range(1, len(lower)))
        self.singles = frozenset(singles)
        self._single = _one_of(singles)
        # Only what begins like a tag: nobody wants each text to be cut that ends with some letter.
        self._beginnings = frozenset(text for text in beginnings if not text[0].isalnum())
        self._longest = max(map(len, self._beginnings), default=0)

    def cover(self, value: T) -> tuple[T, str]:
        """Put breaks into every text of a JSON value, and into the keys of its objects.

        So does what only differs in upper and lower case, as templates may change that. A break also follows
        a text that ends like the beginning of a control token, which the next text could complete. Names as
        programs spell them stay as they are where they are keys.

        Returns:
            The value, with the break: see `cut`.

        Raises:
            InvalidOption: the value is nested too deeply.
        """
        everything = "\n".join(_texts(value)).lower()
        mark = next((mark for mark in _MARKS if not _forms(mark).search(everything)), _MARKS[0])
        found = [
            text
            for head, texts in self._by_head.items()
            if head in everything
            for text in texts
            if text in everything and mark not in text
        ]
        change = partial(self._broken, mark=mark, pattern=_one_of(found))
        return _mapped(value, change), mark

    def _broken(self, text: str, *, mark: str, pattern: re.Pattern[str]) -> str:
        text = text.replace(mark, "")
        # Texts may overlap, so breaking one can leave another whole.
        while pattern.search(text):
            text = pattern.sub(lambda match: match[0][0] + mark + match[0][1:], text)
        text = self._single.sub(lambda match: mark + match[0] + mark, text)
        end = text[-self._longest :].lower()
        ends = any(end[start:] in self._beginnings for start in range(len(end)))
        return text + mark if ends else text


def shield(value: T, control_texts: Iterable[str]) -> tuple[T, str]:
    """Put breaks into the control tokens that a JSON value spells: `Shield.cover`, once."""
    return Shield(control_texts).cover(value)


def cut(prompt: str, mark: str) -> list[str]:
    """The pieces of a rendered prompt between its breaks, also where the template wrote them as escapes."""
    return _forms(mark).split(prompt)


def _one_of(texts: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)", re.IGNORECASE)


def _forms(mark: str) -> re.Pattern[str]:
    """The break as itself, as JSON and Python escape it, and as addresses do."""
    return _FORMS[mark]


_FORMS = {
    mark: re.compile(
        rf"{mark}|\\+u{ord(mark):04x}|{''.join(f'%{byte:02x}' for byte in mark.encode())}", re.IGNORECASE
    )
    for mark in _MARKS
}


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise InvalidOption(f"a value is nested more than {MAX_DEPTH} deep; simplify it")
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key, depth + 1)
            yield from _texts(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, depth + 1)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_key(key, change): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value


def _key(key: Any, change: Callable[[str], str]) -> Any:
    return change(key) if isinstance(key, str) and not key.isidentifier() else key
