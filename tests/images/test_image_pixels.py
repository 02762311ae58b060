"""Preprocessing against the processors of transformers."""

from typing import Any

import numpy as np
import pytest
from tests.images.pictures import noise

from puna.errors import InvalidOption
from puna.images.pixels import CLIP_DEVIATION, CLIP_MEAN, arrangements, resized, squared, tiled
from puna.images.resizing import Resizing

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


@pytest.mark.transformers
@pytest.mark.parametrize(
    ("patch", "merge", "least", "most"), [(14, 2, 4, 1280), (16, 2, 64, 1280), (4, 2, 4, 40), (14, 3, 1, 9)]
)
def test_pictures_of_their_own_sizes_are_those_of_transformers(
    processors: Any, patch: int, merge: int, least: int, most: int
) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    factor = patch * merge
    resizing = Resizing(factor, least * factor**2, most * factor**2)
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": resizing.least, "longest_edge": resizing.most},
        image_mean=CLIP_MEAN,
        image_std=CLIP_DEVIATION,
        patch_size=patch,
        merge_size=merge,
    )
    random = np.random.default_rng(1)
    large = [(1500, 1200), (200, 3000), (1, 190), (190, 1)]
    for width, height in [*SIZES, *large, *random.integers(1, 250, (20, 2)).tolist()]:
        image = noise(width, width, height)
        found = resized(image, resizing.size(width, height), CLIP_MEAN, CLIP_DEVIATION)
        values, rows, columns = processor.patchify(found.tiles[0], patch, merge, 2)
        expected = processor(image)
        assert expected["image_grid_thw"].tolist() == [[1, rows, columns]]
        assert resizing.tokens(width, height) == rows * columns // merge**2
        assert np.abs(expected["pixel_values"] - values).max() * max(CLIP_DEVIATION) < 1 / 255 / 100


@pytest.mark.transformers
def test_sizes_are_those_of_transformers(processors: Any) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    random = np.random.default_rng(2)
    for factor, least, most in [(28, 3136, 28**2 * 1280), (32, 65536, 32**2 * 1280), (28, 10**5, 2 * 10**5)]:
        resizing = Resizing(factor, least, most)
        for width, height in [(1, 1), (1, 200), *random.integers(50, 9000, (500, 2)).tolist()]:
            high, wide = smart_resize(height, width, factor, least, most)
            assert resizing.size(width, height) == (wide, high)


def test_no_picture_stands_for_more_tokens_than_the_largest() -> None:
    resizing = Resizing(28, 3136, 28**2 * 1280)
    assert resizing.largest == (40 * 28, 32 * 28)
    for side in range(90, 16384, 31):
        assert resizing.tokens(side, 16384) <= resizing.tokens(*resizing.largest) == 1280


def test_pictures_that_are_too_long() -> None:
    resizing = Resizing(28, 3136, 10**6)
    assert resizing.size(2, 400) == (28, 812)
    for size in ((2, 401), (401, 2)):
        with pytest.raises(InvalidOption, match="more than 200 times the other"):
            resizing.size(*size)


def test_arrangements_are_in_the_models_order() -> None:
    assert arrangements(4) == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]


def test_what_is_not_covered_is_black() -> None:
    found = tiled(noise(1, 30, 28), 28, 4).tiles
    black = -np.asarray(CLIP_MEAN, np.float32) / np.asarray(CLIP_DEVIATION, np.float32)
    assert len(found) == 2 and np.allclose(found[1, :, -1, -1], black)
