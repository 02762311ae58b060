"""From a picture's bytes to its pixels, within limits; the only user of Pillow."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from puna.errors import InvalidOption
from puna.images.header import check_size, examine

if TYPE_CHECKING:
    from PIL.Image import Image

# What Pillow's decoders raise for content that is broken.
_BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError),
    *(OverflowError, ZeroDivisionError, struct.error, zlib.error),
)
_WHITE = (255, 255, 255, 255)


# Tag of EXIF, and its values for pictures that lie on their side; JEITA CP-3451, 4.6.4.
_ORIENTATION, _ON_THEIR_SIDE = 0x0112, range(5, 9)


def measured(content: bytes) -> tuple[int, int]:
    """Width and height of a picture as `decode` gives it, of which no more is read than has to be.

    Raises:
        InvalidOption: as `decode`, as far as that is found out.
    """
    with _opened(content) as opened:
        width, height = opened.size
        return (height, width) if opened.getexif().get(_ORIENTATION) in _ON_THEIR_SIDE else (width, height)


def decode(content: bytes) -> Image:
    """The pixels of a picture, or of its first frame, in RGB.

    It is turned the way that its EXIF tag says, and what is transparent shows white. Colour profiles are
    left alone.

    Raises:
        InvalidOption: as `examine`; or it is broken or cut off.
    """
    from PIL import ImageOps

    with _opened(content) as opened:
        opened.load()
        return _in_rgb(ImageOps.exif_transpose(opened))


@contextmanager
def _opened(content: bytes) -> Iterator[Image]:
    """A picture of which the header is read. What is wrong with it is an InvalidOption."""
    from PIL import Image

    header = examine(content)
    with warnings.catch_warnings():
        # Of what looks odd in a picture its sender has no use.
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content), formats=[header.format]) as opened:
                # Its own reading of the header is what it allocates by.
                check_size(header.format, *opened.size)
                yield opened
        except (*_BROKEN, Image.DecompressionBombError) as error:
            reason = str(error)[:100] or type(error).__name__
            raise InvalidOption(f"invalid image: the {header.format} cannot be read: {reason!r}") from error


def _in_rgb(image: Image) -> Image:
    from PIL import Image

    if image.mode.startswith("I"):
        # Sixteen bits of grey, of which Pillow would cut off the upper.
        grey = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if "A" not in image.getbands() and "a" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, _WHITE), rgba).convert("RGB")
