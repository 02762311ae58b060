"""Little that becomes much: compressed zeros, made as they are sent."""

import struct
import zlib
from collections.abc import Iterable, Iterator

_BLOCK = 1 << 20
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_ZSTD_BLOCK = 1 << 17


def gzip_zeros(size: int) -> Iterator[bytes]:
    """`size` zeros, a multiple of 1 MiB, in the gzip format (RFC 1952): one member, about a thousandth."""
    block = bytes(_BLOCK)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # After a full flush the compressor knows nothing of what came before: the same bytes may come again.
    piece = deflate.compress(block) + deflate.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    yield _GZIP_HEADER
    for _ in range(size // _BLOCK):
        checksum = zlib.crc32(block, checksum)
        yield piece
    yield deflate.flush() + struct.pack("<II", checksum, size & 0xFFFFFFFF)


def zlib_zeros(size: int) -> Iterator[bytes]:
    """The same in the zlib format (RFC 1950), which HTTP calls deflate."""
    block = bytes(_BLOCK)
    deflate = zlib.compressobj(9)
    for _ in range(size // _BLOCK):
        yield deflate.compress(block)
    yield deflate.flush()


def gzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What `pieces` hold, in the gzip format."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    for piece in pieces:
        yield deflate.compress(piece)
    yield deflate.flush()


def zstd_zeros(size: int) -> Iterator[bytes]:
    """`size` zeros in the Zstandard format (RFC 8878): blocks of 128 KiB that repeat one byte."""
    yield b"\x28\xb5\x2f\xfd" + b"\0" + b"\x38"  # no checksum, no size; a window of 128 KiB
    for start in range(0, size, _ZSTD_BLOCK):
        length = min(_ZSTD_BLOCK, size - start)
        last = start + length == size
        yield struct.pack("<I", last | 1 << 1 | length << 3)[:3] + b"\0"
