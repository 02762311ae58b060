"""Sizes of pictures that keep their proportions, as the models of the Qwen family look at them.

Bai et al., arXiv:2502.13923, section 2.1; the arithmetic is that of transformers' `smart_resize`.
"""

import math
from dataclasses import dataclass

from puna.errors import GGUFError, InvalidOption
from puna.gguf import Metadata

TOKENS_AT_MOST = 1280
"""For which a picture stands, whatever a file allows: the most that Qwen recommends."""

_RATIO_AT_MOST = 200
_FACTOR_AT_MOST = 1024
# llama.cpp's names, Ollama's for Qwen 3, and for Qwen 2.5.
_LEAST = ("vision.image_min_pixels", "vision.shortest_edge")
_MOST = ("vision.image_max_pixels", "vision.longest_edge", "vision.max_pixels")


@dataclass(frozen=True, slots=True)
class Resizing:
    """To multiples of a side, within bounds of all pixels.

    Attributes:
        factor: pixels along a side of the square that a token stands for.
        least: pixels of the smallest picture.
        most: pixels of the largest.
    """

    factor: int
    least: int
    most: int

    @staticmethod
    def of(metadata: Metadata, least: int) -> "Resizing":
        """What a file says of its image encoder.

        Args:
            least: tokens of the smallest picture, where it does not say.

        Raises:
            GGUFError: a number makes no sense.
        """
        factor = metadata.uint("vision.patch_size", 0) * metadata.uint("vision.spatial_merge_size", 2)
        if not 1 <= factor <= _FACTOR_AT_MOST:
            raise GGUFError(f"{metadata.source}: no token stands for a square of {factor} pixels")
        most = min(_first(metadata, _MOST) or TOKENS_AT_MOST * factor**2, TOKENS_AT_MOST * factor**2)
        return Resizing(factor, min(_first(metadata, _LEAST) or least * factor**2, most), most)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that a picture of these gets.

        Raises:
            InvalidOption: it is too long or too high.
        """
        if max(width, height) > _RATIO_AT_MOST * min(width, height):
            raise InvalidOption(
                f"invalid image: {width} × {height} pixels; the model looks at none of which one side is "
                f"more than {_RATIO_AT_MOST} times the other"
            )
        factor, sides = self.factor, (width, height)
        across, down = (round(side / factor) * factor for side in sides)
        if across * down > self.most:
            shrink = math.sqrt(width * height / self.most)
            across, down = (max(factor, math.floor(side / shrink / factor) * factor) for side in sides)
        elif across * down < self.least:
            grow = math.sqrt(self.least / (width * height))
            across, down = (math.ceil(side * grow / factor) * factor for side in sides)
        return across, down

    def tokens(self, width: int, height: int) -> int:
        """For how many tokens a picture stands. Raises: as `size`."""
        across, down = self.size(width, height)
        return across * down // self.factor**2

    @property
    def largest(self) -> tuple[int, int]:
        """Width and height of a picture of the most tokens."""
        tokens = max(self.most // self.factor**2, 1)
        rows = max(count for count in range(1, math.isqrt(tokens) + 1) if tokens % count == 0)
        return tokens // rows * self.factor, rows * self.factor


def _first(metadata: Metadata, keys: tuple[str, ...]) -> int:
    """The first of these numbers that is there and not 0; else 0."""
    return next((value for key in keys if (value := metadata.uint(key, 0))), 0)
