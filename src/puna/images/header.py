"""What a picture's header says, read without decoding it: its format, and whether it is too large.

PNG: W3C PNG 3rd edition, 11.2.1. JPEG: ITU-T T.81, B.2. GIF: GIF89a, 18. WebP: RFC 9649, 2.
"""

import struct
from dataclasses import dataclass

from puna.errors import InvalidOption

MAX_SIDE = 16_384
"""The most pixels along one side."""

MAX_PIXELS = 50_000_000
"""The most pixels of a picture; decoded, each takes three or four bytes."""

_PNG = b"\x89PNG\r\n\x1a\n"
# Markers of frames: baseline, progressive and so on; C4, C8 and CC are others.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: restarts, begin and end of the picture, and one that is reserved.
_BARE = frozenset((*range(0xD0, 0xD9), 0x01))


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture's header says.

    Attributes:
        format: PNG, JPEG, GIF or WEBP.
        width: in pixels.
        height: in pixels.
    """

    format: str
    width: int
    height: int


def examine(content: bytes) -> Header:
    """The header of a picture.

    Raises:
        InvalidOption: it is no PNG, JPEG, GIF or WebP, is cut off, has no size, or is too large.
    """
    format = _format_of(content)
    if format is None:
        raise InvalidOption("invalid image: it is no PNG, JPEG, WebP or GIF")
    try:
        width, height = _SIZES[format](content)
    except (struct.error, IndexError) as error:
        raise InvalidOption(f"invalid image: the {format} ends within its header") from error
    check_size(format, width, height)
    return Header(format, width, height)


def check_size(format: str, width: int, height: int) -> None:
    """Check that a picture is neither empty nor too large. Raises: InvalidOption."""
    if width < 1 or height < 1:
        raise InvalidOption(f"invalid image: the {format} has no size")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise InvalidOption(
            f"invalid image: {width} × {height} pixels are too many; at most {MAX_SIDE} along a side and "
            f"{MAX_PIXELS // 10**6} million in all are allowed"
        )


def _format_of(content: bytes) -> str | None:
    if content.startswith(_PNG):
        return "PNG"
    if content.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    return "WEBP" if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else None


def _png(content: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", content, 16)
    return width, height


def _gif(content: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", content, 6)
    return width, height


def _jpeg(content: bytes) -> tuple[int, int]:
    place = 2
    while True:
        while content[place] != 0xFF:
            place += 1
        while content[place] == 0xFF:
            place += 1
        marker, place = content[place], place + 1
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", content, place + 3)
            return width, height
        if marker not in _BARE:
            # A length counts its own two bytes; one that says less must not hold the search up.
            place += max(struct.unpack_from(">H", content, place)[0], 2)


def _webp(content: bytes) -> tuple[int, int]:
    kind = content[12:16]
    if kind == b"VP8X":
        low, middle, high, *more = struct.unpack_from("<6B", content, 24)
        return 1 + (low | middle << 8 | high << 16), 1 + (more[0] | more[1] << 8 | more[2] << 16)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", content, 26)
    return width & 0x3FFF, height & 0x3FFF


_SIZES = {"PNG": _png, "JPEG": _jpeg, "GIF": _gif, "WEBP": _webp}
