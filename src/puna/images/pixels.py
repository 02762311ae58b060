"""From pixels to what models look at: tiles of floating-point numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that CLIP was trained with, red, green and blue; Radford et al., arXiv:2103.00020."""

HALF = (0.5, 0.5, 0.5)

Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Pixels:
    """A picture as a model looks at it.

    Attributes:
        tiles: F32 (tiles, 3, height, width).
        arrangement: the number of the way in which the tiles lie, from 1 on; 0 where there is but one.
    """

    tiles: NDArray[np.float32]
    arrangement: int = 0


def normalised(image: Image, mean: Colour, deviation: Colour) -> NDArray[np.float32]:
    """The colours of a picture in RGB, each less its mean and by its deviation; F32 (3, height, width)."""
    colours: NDArray[np.float32] = np.asarray(image, np.float32) / np.float32(255)
    values = np.subtract(colours, np.asarray(mean, np.float32), dtype=np.float32)
    values /= np.asarray(deviation, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def squared(image: Image, size: int) -> Pixels:
    """A picture stretched to a square of `size` pixels: one tile, with values from -1 to 1."""
    from PIL.Image import Resampling

    stretched = image.resize((size, size), Resampling.BILINEAR)
    return Pixels(normalised(stretched, HALF, HALF)[None])


def resized(image: Image, size: tuple[int, int], mean: Colour, deviation: Colour) -> Pixels:
    """A picture stretched to this width and height: one tile."""
    from PIL.Image import Resampling

    return Pixels(normalised(image.resize(size, Resampling.BICUBIC), mean, deviation)[None])


def tiled(image: Image, size: int, most: int) -> Pixels:
    """A picture laid out on up to `most` square tiles of `size` pixels, as Llama 3.2 looks at it.

    It lies at the upper left of the canvas of tiles that suits it best; the rest is black.
    """
    from PIL import Image
    from PIL.Image import Resampling

    canvases = arrangements(most)
    canvas = best_canvas(image.size, size, canvases)
    width, height = fitted(image.size, (canvas[0] * size, canvas[1] * size), size)
    whole = Image.new("RGB", (canvas[0] * size, canvas[1] * size))
    whole.paste(image.resize((width, height), Resampling.BILINEAR))
    values = normalised(whole, CLIP_MEAN, CLIP_DEVIATION)
    columns, rows = canvas
    tiles = values.reshape(3, rows, size, columns, size).transpose(1, 3, 0, 2, 4)
    tiles = np.ascontiguousarray(tiles.reshape(rows * columns, 3, size, size))
    return Pixels(tiles, canvases.index((rows, columns)) + 1)


def arrangements(most: int) -> list[tuple[int, int]]:
    """The canvases of at most `most` tiles, in the order in which models number them."""
    sides = range(1, most + 1)
    return [(rows, columns) for rows, columns in product(sides, sides) if rows * columns <= most]


def best_canvas(image: tuple[int, int], size: int, canvases: list[tuple[int, int]]) -> tuple[int, int]:
    """The canvas, (columns, rows), that enlarges a picture least, or else shrinks it least.

    Args:
        image: width and height.
        size: of a tile.
    """

    def scale(canvas: tuple[int, int]) -> float:
        return min(canvas[0] * size / image[0], canvas[1] * size / image[1])

    larger = [scale(canvas) for canvas in canvases if scale(canvas) >= 1]
    wanted = min(larger) if larger else max(map(scale, canvases))
    # Of equals the first is taken by its rows, as models number canvases.
    equal = sorted((canvas for canvas in canvases if scale(canvas) == wanted), key=lambda one: one[::-1])
    return min(equal, key=math.prod)


def fitted(image: tuple[int, int], canvas: tuple[int, int], size: int) -> tuple[int, int]:
    """Width and height of a picture that fills a canvas in one direction, and is not below a tile there."""
    width, height = (min(max(side, size), most) for side, most in zip(image, canvas, strict=True))
    by_width, by_height = width / image[0], height / image[1]
    if by_width < by_height:
        return width, min(math.floor(image[1] * by_width) or 1, height)
    return min(math.floor(image[0] * by_height) or 1, width), height
