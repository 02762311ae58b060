"""Values that models write: JSON, literals as in Python, and bare texts typed by a tool's schema."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from puna.chat.parsers.balanced import AFTER_STRING, DEPTH_LIMIT

_CONSTANTS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_INTEGER = re.compile(r"[+-]?\d{1,300}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:\d{1,300}(?:\.\d{0,300})?|\.\d{1,300})(?:[eE][+-]?\d{1,4})?", re.ASCII)
# Beyond this a float no longer holds every integer, so what looks like one need not be.
_EXACT = 2.0**53

_SPACE = re.compile(r"\s*")
# Linear as it is. Made possessive, Python before 3.11.5 would keep blanks that nothing follows.
_BARE = re.compile(r"[^,()\[\]{}\"'\s]+(?:[ \t]+[^,()\[\]{}\"'\s]+)*")
_NAME = re.compile(r"[^,:=()\[\]{}\"'\s]+")
_STRING_PARTS = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[\s\S])")
_QUOTE_OR_ESCAPE = {'"': re.compile(r'["\\]'), "'": re.compile(r"['\\]")}
_AFTER_STRING = re.compile(rf"\s*+(?:[{re.escape(AFTER_STRING)}]|\Z)")
_ESCAPES: dict[str, str] = dict(zip("ntrbfva0/\\'\"\n", [*"\n\t\r\b\f\v\a\0/\\'\"", ""], strict=True))


def load_json(text: str) -> Any:
    """The value of a JSON text; line breaks inside strings are taken as they are, for models write them.

    Raises:
        ValueError: it is no JSON, or holds a number that JSON cannot.
    """
    try:
        value = json.loads(
            text, strict=False, parse_constant=_no_constant, parse_float=_finite, parse_int=_integer
        )
    except RecursionError:
        raise ValueError("nested too deep") from None
    return _clean(value)


def _clean(value: Any, depth: int = 0) -> Any:
    """The value with its texts well formed. Raises: ValueError: it nests deeper than `DEPTH_LIMIT`."""
    if depth > DEPTH_LIMIT:
        raise ValueError("nested too deep")
    match value:
        case str():
            return well_formed(value)
        case list():
            return [_clean(item, depth + 1) for item in value]
        case dict():
            return {well_formed(key): _clean(item, depth + 1) for key, item in value.items()}
    return value


def well_formed(text: str) -> str:
    """The text with unpaired surrogates, which no UTF-8 can hold, as U+FFFD, and paired ones joined."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _integer(text: str) -> int | float:
    """The integer; as a float, like a number with a fraction, where it has more than 64 bits."""
    value = int(text)
    return value if -(2**63) <= value < 2**64 else _finite(text)


def typed(text: str, schema: object) -> Any:
    """The value of a bare text that stands for a parameter.

    `null` is None whatever the schema says; then the most particular of the schema's types that fits counts:
    boolean, integer, number, array, object, string. Where none fits or none is stated, it is the text itself.

    Args:
        schema: the parameter's JSON schema; anything but an object says nothing.
    """
    plain = text.strip()
    if plain.lower() == "null":
        return None
    types = _types(schema)
    if "boolean" in types and plain.lower() in ("true", "false"):
        return plain.lower() == "true"
    if "integer" in types and _INTEGER.fullmatch(plain):
        return _number(plain)
    if "number" in types and _NUMBER.fullmatch(plain):
        return _number(plain)
    for name, kind in (("array", list), ("object", dict)):
        if name in types and isinstance(value := _structure(plain), kind):
            return value
    return text


def _types(schema: object, depth: int = 0) -> set[str]:
    """The names of the types that a schema allows, its alternatives included."""
    if not isinstance(schema, Mapping) or depth > DEPTH_LIMIT:
        return set()
    stated = schema.get("type")
    types = {stated} if isinstance(stated, str) else set()
    if isinstance(stated, list | tuple):
        types |= {name for name in stated if isinstance(name, str)}
    for key in ("anyOf", "oneOf"):
        alternatives = schema.get(key)
        if isinstance(alternatives, list | tuple):
            types = types.union(*(_types(each, depth + 1) for each in alternatives))
    return types


def _number(text: str) -> int | float | str:
    """The number, as an integer where it is whole; the text where it is too large for a float."""
    value = float(text)
    if not math.isfinite(value):
        return text
    if _INTEGER.fullmatch(text):
        return _integer(text)
    return int(value) if value.is_integer() and abs(value) < _EXACT else value


def _structure(text: str) -> Any:
    """The list or object that the text writes as JSON or as Python does; None if it writes none."""
    for read in (load_json, literal):
        try:
            return read(text)
        except ValueError:
            continue
    return None


def parameter_schema(parameters: object, name: str) -> object:
    """The schema of one parameter of a tool, None where it is not declared."""
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    return properties.get(name) if isinstance(properties, Mapping) else None


def parameter_names(parameters: object) -> list[str]:
    """The names of a tool's parameters, in the order of their declaration."""
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    return [name for name in properties if isinstance(name, str)] if isinstance(properties, Mapping) else []


def literal(text: str) -> Any:
    """The value of a literal as in Python, with JSON's constants and unquoted words too.

    Raises:
        ValueError: it is none.
    """
    reader = Literals(text)
    value = reader.value()
    reader.end()
    return value


class Literals:
    """Reads literals from a complete text. Its methods raise ValueError where the text has something else."""

    def __init__(self, text: str, delimiter: str = "") -> None:
        """
        Args:
            delimiter: what stands on both sides of strings without escapes, besides `"` and `'`.
        """
        self._text = text
        self._at = 0
        self._delimiter = delimiter

    def end(self) -> None:
        """Nothing but white space is left."""
        if self._next():
            raise ValueError("text follows the value")

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """The arguments in `(1, name=2)`: those without a name, and those with one."""
        self._skip("(")
        unnamed: list[Any] = []
        named: dict[str, Any] = {}
        while not self._accept(")"):
            start = self._at
            name = self._match(_NAME)
            if name and self._accept("="):
                named[name] = self.value()
            else:
                self._at = start
                unnamed.append(self.value())
            self._separate(")")
        return unnamed, named

    def value(self, depth: int = 0) -> Any:
        """Any value."""
        if depth > DEPTH_LIMIT:
            raise ValueError("nested too deep")
        mark = self._next()
        if mark in ("[", "("):
            return self._list("]" if mark == "[" else ")", depth)
        if mark == "{":
            return self.object(depth)
        return self._string() if self._quote() else _word(self._match(_BARE))

    def object(self, depth: int = 0) -> dict[str, Any]:
        """`{key: value, …}`, the keys quoted or not."""
        self._skip("{")
        found: dict[str, Any] = {}
        while not self._accept("}"):
            key = self._string() if self._quote() else self._match(_NAME)
            self._skip(":")
            found[key] = self.value(depth + 1)
            self._separate("}")
        return found

    def _list(self, closing: str, depth: int) -> list[Any]:
        self._at += 1
        found: list[Any] = []
        while not self._accept(closing):
            found.append(self.value(depth + 1))
            self._separate(closing)
        return found

    def _separate(self, closing: str) -> None:
        if not self._accept(",") and self._next() != closing:
            raise ValueError("a comma is missing")

    def _string(self) -> str:
        quote = self._quote()
        start = self._at + len(quote)
        end = self._closing(quote, start)
        self._at = end + len(quote)
        inner = self._text[start:end]
        return inner if quote == self._delimiter else well_formed(_STRING_PARTS.sub(_unescaped, inner))

    def _closing(self, quote: str, start: int) -> int:
        if quote == self._delimiter:
            end = self._text.find(quote, start)
        else:
            end = self._unescaped_quote(quote, start)
        if end < 0:
            raise ValueError("a string does not end")
        return end

    def _unescaped_quote(self, quote: str, start: int) -> int:
        while found := _QUOTE_OR_ESCAPE[quote].search(self._text, start):
            if found[0] != quote:
                start = found.end() + 1
            elif _AFTER_STRING.match(self._text, found.end()):
                return found.start()
            else:
                # Models leave quotes inside strings as they are.
                start = found.end()
        return -1

    def _quote(self) -> str:
        """The quote that comes next, if one does."""
        mark = self._next()
        if mark in ('"', "'"):
            return mark
        delimited = self._delimiter and self._text.startswith(self._delimiter, self._at)
        return self._delimiter if delimited else ""

    def _next(self) -> str:
        """The next character after white space, "" at the end."""
        self._match_here(_SPACE)
        return self._text[self._at : self._at + 1]

    def _accept(self, mark: str) -> bool:
        found = self._next() == mark
        self._at += found
        return found

    def _skip(self, mark: str) -> None:
        if not self._accept(mark):
            raise ValueError(f"a {mark} is missing")

    def _match(self, pattern: re.Pattern[str]) -> str:
        self._next()
        return self._match_here(pattern)

    def _match_here(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return found[0] if found else ""


def _unescaped(escape: re.Match[str]) -> str:
    letter, digits = escape[0][1], escape[0][2:]
    if digits:
        code = int(digits, 16)
        return chr(code) if code < 0x110000 else escape[0]
    return _ESCAPES.get(letter, escape[0])


def _word(text: str) -> Any:
    """What an unquoted word stands for: a constant, a number or itself."""
    if not text:
        raise ValueError("a value is missing")
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    return _number(text) if _NUMBER.fullmatch(text) else text
