"""Pictures as files, in every form that Pillow writes, and some that nobody should."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def noise(seed: int, width: int, height: int) -> Image.Image:
    """A picture of random colours."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def gradient(width: int, height: int) -> Image.Image:
    """A picture that compresses well without loss of much."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack((across, down, 255 - across), -1).astype(np.uint8))


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    """The content of the picture's file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(width: int, height: int, chunks: bytes = b"", bits: int = 1, kind: int = 0) -> bytes:
    """A PNG that says it has this size, with little in it."""
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def jpeg(width: int, height: int) -> bytes:
    """A JPEG that says it has this size, up to its frame header."""
    frame = struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\1\x11\0"
    return b"\xff\xd8\xff\xe0" + struct.pack(">H", 4) + b"\0\0" + b"\xff\xc2" + frame


def gif(width: int, height: int) -> bytes:
    """A GIF that says it has this size, without a frame."""
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b";"


def webp(width: int, height: int) -> bytes:
    """A WebP that says it has this size, without content."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + size
    return b"RIFF" + struct.pack("<I", len(body)) + body
