"""Preprocessing against the processors of transformers."""

from typing import Any

import numpy as np
import pytest
from tests.images.pictures import noise

from puna.images.pixels import CLIP_DEVIATION, CLIP_MEAN, arrangements, squared, tiled

SIZES = [(1, 1), (1, 200), (200, 1), (28, 28), (29, 27), (56, 56), (57, 56), (100, 30), (31, 200), (13, 90)]


@pytest.fixture(scope="module")
def processors() -> Any:
    return pytest.importorskip("transformers")


@pytest.mark.transformers
@pytest.mark.parametrize("most", [1, 3, 4])
@pytest.mark.parametrize("tile", [28, 56])
def test_tiles_are_those_of_transformers(processors: Any, tile: int, most: int) -> None:
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    processor = MllamaImageProcessorPil(
        size={"height": tile, "width": tile},
        image_mean=CLIP_MEAN,
        image_std=CLIP_DEVIATION,
        max_image_tiles=most,
    )
    random = np.random.default_rng(1)
    for width, height in [*SIZES, *random.integers(1, 250, (60, 2)).tolist()]:
        image = noise(width, width, height)
        expected, found = processor(image), tiled(image, tile, most)
        assert expected["num_tiles"] == [[len(found.tiles)]]
        assert expected["aspect_ratio_ids"][0, 0] == found.arrangement
        difference = np.abs(expected["pixel_values"][0, 0, : len(found.tiles)] - found.tiles)
        # In units of a colour's 256 steps.
        assert difference.max() * max(CLIP_DEVIATION) < 1 / 255 / 100


@pytest.mark.transformers
def test_squares_are_those_of_transformers(processors: Any) -> None:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    processor = Gemma3ImageProcessorPil(
        size={"height": 28, "width": 28}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    for size in SIZES:
        image = noise(size[0], *size)
        difference = np.abs(processor(image)["pixel_values"][0] - squared(image, 28).tiles[0])
        assert difference.max() < 1 / 255 / 100


def test_arrangements_are_in_the_models_order() -> None:
    assert arrangements(4) == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]


def test_what_is_not_covered_is_black() -> None:
    found = tiled(noise(1, 30, 28), 28, 4).tiles
    black = -np.asarray(CLIP_MEAN, np.float32) / np.asarray(CLIP_DEVIATION, np.float32)
    assert len(found) == 2 and np.allclose(found[1, :, -1, -1], black)
