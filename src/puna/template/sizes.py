"""How large the results of Jinja's operations become, told before they are made.

Sizes are about characters of text. What no size could bound raises SecurityError.
"""

import re
from collections.abc import Collection, ItemsView, Iterator, KeysView, Mapping, ValuesView
from itertools import chain
from typing import Any

from jinja2.exceptions import SecurityError

# What a template makes besides text. Views are of dicts.
CONTAINERS: tuple[type[Collection[Any]], ...] = (list, tuple, dict, KeysView, ValuesView, ItemsView)
# About what an element costs, in memory too.
ELEMENT = 32

# A whole number takes long before it takes room: one of 65,536 bits counts as 4 Mi characters.
_INTEGER_BIT = 64
_SMALL_INTEGER_BITS = 1024
_PADDING_METHODS = ("center", "expandtabs", "ljust", "rjust", "zfill")
# They make what is not watched here, or take longer than their results tell; chat templates do not use them.
_REFUSED_METHODS = ("encode", "striptags", "to_bytes", "translate")
_SHORT = 1 << 16
# Python compares each place with all of the text here, going backwards or stripping characters.
_COMPARING_METHODS = ("rfind", "rindex", "rpartition", "rsplit", "strip", "lstrip", "rstrip")
_COMPARED = 64


def written_size(value: Any) -> int:
    """About how long a JSON value is when it is written out."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, CONTAINERS):
        return 2 + sum(written_size(element) + 2 for element in elements(value))
    return 20


def elements(value: Any) -> Iterator[Any]:
    """What a container holds, keys included."""
    if isinstance(value, dict):
        return chain(value.keys(), value.values())
    return chain.from_iterable(value) if isinstance(value, ItemsView) else iter(value)


def split_size(text: str) -> int:
    """What it costs to take a text apart into as many pieces as it has characters, where that is much."""
    return ELEMENT // 2 * len(text) if len(text) > _SHORT else 0


def replaced_size(text: str, old: str, new: str) -> int:
    """How long a text becomes at most once `old` is replaced by `new`."""
    return len(text) + text.count(old) * len(new)


def binary_size(operator: str, left: Any, right: Any, weight: int) -> int:
    """About how large the result of a binary operation is; 0 for what needs no watching.

    Args:
        weight: the length of both sides written out.
    """
    if operator == "+" and isinstance(left, str | list | tuple):
        return weight
    if operator == "*":
        return _repeated_size(left, right, weight)
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        return integer_size(left.bit_length() * max(right, 0))
    if operator in ("//", "%") and isinstance(left, int) and isinstance(right, int):
        return integer_size(max(left.bit_length(), right.bit_length()))
    if operator == "%" and isinstance(left, str):
        return format_size(left, right, weight)
    return 0


def format_size(text: str, values: Any, weight: int) -> int:
    """About how long `text % values` is. Raises: SecurityError."""
    if "*" in text:
        raise SecurityError("it formats with a width")
    widths = sum(int(width) for width in re.findall(r"[0-9]{1,12}", text))
    # Each place may name the longest value of a mapping.
    return len(text) + widths + weight * (text.count("%") if isinstance(values, Mapping) else 1)


def method_size(owner: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """About how large the result of a method is; 0 for what makes nothing longer. Raises: SecurityError."""
    if name in _REFUSED_METHODS and isinstance(owner, str | int):
        raise SecurityError(f"it calls {name}")
    if not isinstance(owner, str):
        return 0
    if name in _COMPARING_METHODS:
        return _compared_size(owner, name, next((value for value in args if isinstance(value, str)), ""))
    if name in _PADDING_METHODS:
        width = next((value for value in (*args, *kwargs.values()) if isinstance(value, int)), 8)
        return len(owner) + max(width, 0) * (owner.count("\t") if name == "expandtabs" else 1)
    if name == "replace" and len(args) >= 2:
        return replaced_size(owner, str(args[0]), str(args[1]))
    if name == "join" and args and isinstance(args[0], str | list | tuple | dict):
        return joined_size(owner, args[0])
    if name == "splitlines" or (name == "split" and not any(isinstance(a, str) for a in args)):
        return split_size(owner)
    if name == "split":
        return ELEMENT * owner.count(next(a for a in args if isinstance(a, str)) or " ")
    return 0


def _compared_size(owner: str, name: str, text: str) -> int:
    pieces = 0
    if name == "rsplit":
        pieces = ELEMENT * owner.count(text) if text else split_size(owner)
    return pieces + stripped_size(owner, text)


def stripped_size(text: str, characters: str) -> int:
    """What it costs to compare each character of a text with all of another one, where that is much."""
    return len(text) * len(characters) // _COMPARED


def joined_size(separator: str, texts: str | list[Any] | tuple[Any, ...] | dict[Any, Any]) -> int:
    """How long the texts are with a separator between them."""
    own = len(texts) if isinstance(texts, str) else sum(len(text) for text in texts if isinstance(text, str))
    return own + len(separator) * len(texts)


def _repeated_size(left: Any, right: Any, weight: int) -> int:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | list | tuple) and isinstance(times, int):
            return weight * max(times, 0)
    if isinstance(left, int) and isinstance(right, int):
        return integer_size(left.bit_length() + right.bit_length())
    return 0


def integer_size(bits: int) -> int:
    """What a whole number of so many bits costs."""
    return bits * _INTEGER_BIT if bits > _SMALL_INTEGER_BITS else 0
