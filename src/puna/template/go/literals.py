"""Literals of Go: reading those of a template, and quoting text as `%q` does.

Source: the Go language's specification ("Rune literals", "String literals", "Integer literals",
"Floating-point literals") and the documentation of strconv.Quote. A byte that is no UTF-8 is held as Python's
`surrogateescape` holds it.
"""

import math
import re
import unicodedata

_NAMED = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92}
_NAMES = {chr(code): f"\\{name}" for name, code in _NAMED.items()}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)
_UNDERSCORES = re.compile(r"[+-]?(?:0[xXoObB]_?[0-9a-fA-F]|[0-9]|\.[0-9])(?:_?[0-9a-zA-Z+.-])*", re.ASCII)
_OCTAL = re.compile(r"0[0-7]+", re.ASCII)
# Every character that may have to be written otherwise when it is quoted.
_UNPLAIN = re.compile(r"""[^ !#-&(-\[\]-~]""")
_INT_RANGE = range(-(1 << 63), 1 << 63)


def encode(text: str) -> bytes:
    """The bytes of a text; a surrogate that stands for no byte becomes the replacement character."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        clean = "".join("\ufffd" if "\ud800" <= c <= "\udfff" and not _is_byte(c) else c for c in text)
        return clean.encode("utf-8", "surrogateescape")


def decode(data: bytes) -> str:
    """The text of some bytes, those that are no UTF-8 kept."""
    return data.decode("utf-8", "surrogateescape")


def _is_byte(character: str) -> bool:
    return "\udc80" <= character <= "\udcff"


def unquote(literal: str) -> str:
    """The text of a quoted literal of either kind. Raises ValueError."""
    if literal.startswith("`"):
        return literal[1:-1].replace("\r", "")
    return decode(_unescape(literal))


def character(literal: str) -> int:
    """The code point of a literal in single quotes. Raises ValueError."""
    if match := re.fullmatch(r"'\\(?:x([0-9a-fA-F]{2})|([0-7]{3}))'", literal):
        return _byte(match[1] or match[2], 16 if match[1] else 8)
    text = decode(_unescape(literal))
    if len(text) != 1:
        raise ValueError("a character in single quotes must be just one")
    return ord(text)


def _unescape(literal: str) -> bytes:
    quote, inner = literal[0], literal[1:-1]
    pieces: list[bytes] = []
    position = 0
    for match in _ESCAPE.finditer(inner):
        pieces += (encode(inner[position : match.start()]), _escaped(match, quote))
        position = match.end()
    return b"".join((*pieces, encode(inner[position:])))


def _escaped(match: re.Match[str], quote: str) -> bytes:
    byte, short, long, octal, name = match.groups()
    if byte or octal:
        return bytes([_byte(byte or octal, 16 if byte else 8)])
    if short or long:
        code = int(short or long, 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise ValueError(f"{match[0]} is no character")
        return chr(code).encode()
    if name == quote:
        return quote.encode()
    if name not in _NAMED:
        raise ValueError(f"{match[0]!r} is no escape sequence")
    return bytes([_NAMED[name]])


def _byte(digits: str, base: int) -> int:
    value = int(digits, base)
    if value > 255:
        raise ValueError(f"\\{digits} is larger than a byte")
    return value


def number(literal: str) -> int | float | complex:
    """The value of a number. Raises ValueError."""
    if "_" in literal and not _UNDERSCORES.fullmatch(literal):
        raise ValueError("underscores must stand between digits")
    plain = literal.replace("_", "")
    if plain.endswith("i"):
        return _finite(complex(plain[:-1] + "j"))
    digits = plain.lstrip("+-").lower()
    if digits.startswith(("0x", "0o", "0b")):
        return _finite(float.fromhex(plain)) if "p" in digits else _int(plain, 0)
    if any(mark in digits for mark in ".e"):
        return _finite(float(plain))
    return _int(plain, 8 if _OCTAL.fullmatch(digits) else 10)


def _int(digits: str, base: int) -> int:
    # More digits than these are out of range, and slow to read.
    value = int(digits, base) if len(digits) <= 70 else 1 << 64
    if base == 10 and len(digits.lstrip("+-")) > 1 and digits.lstrip("+-")[0] == "0":
        raise ValueError("a number that begins with 0 is octal")
    if value not in _INT_RANGE:
        raise ValueError("the number does not fit into 64 bits")
    return value


def _finite(value: float | complex) -> float | complex:
    parts = (value.real, value.imag)
    if not all(map(math.isfinite, parts)):
        raise ValueError("the number is too large")
    return value


def is_printable(character: str) -> bool:
    """Whether Go's `unicode.IsPrint` is true."""
    return character == " " or unicodedata.category(character)[0] in "LMNPS"


def quote(text: str, mark: str = '"', *, ascii_only: bool = False) -> str:
    """A text in quotation marks, with escape sequences for what is not printable."""
    return mark + _UNPLAIN.sub(lambda match: _quoted(match[0], mark, ascii_only), text) + mark


def _quoted(character: str, mark: str, ascii_only: bool) -> str:
    if character in (mark, "\\"):
        return "\\" + character
    if _is_byte(character):
        return f"\\x{ord(character) - 0xDC00:02x}"
    if is_printable(character) and (character.isascii() or not ascii_only):
        return character
    if character in _NAMES:
        return _NAMES[character]
    code = ord(character)
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
