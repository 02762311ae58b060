"""Gemma 3 with pictures against transformers: their features, and logits of texts with them."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.models import hf_gemma3_vision, hf_models
from tests.models.driver import WAYS, Logits, opened
from tests.models.hf_gemma3_vision import (
    IMAGE,
    PICTURE,
    TOKENS,
    write_gemma3_projector,
    write_gemma3_text,
    write_gemma3_vision,
)
from tests.models.hf_to_gguf import write_model
from tests.tiny_mllama import write_tiny_mllama

from puna.engine.evaluator import Batch, Evaluator, Pictures
from puna.engine.load import load_model
from puna.engine.options import LoadOptions
from puna.errors import GGUFError, UnsupportedModel
from puna.images.pixels import Pixels, squared
from puna.ml import BackendParams, new_backend
from puna.models import build_model
from puna.models.base import Decoder

pytestmark = pytest.mark.transformers

OWN = [PICTURE] * TOKENS


def picture(seed: int) -> Pixels:
    """A picture of random colours."""
    values = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return squared(Image.fromarray(values), IMAGE)


def text(seed: int, count: int) -> list[int]:
    return hf_models.random_tokens(seed, count)


def features(evaluator: Evaluator, pixels: Pixels) -> Logits:
    backend, model = evaluator.backend, evaluator.model
    assert isinstance(model, Decoder) and model.vision is not None
    with backend.new_context() as context:
        result = model.vision.encode(context, pixels, backend.cache_config().mask_dtype)
        context.forward(result).compute(result)
        return result.floats()


def evaluate(
    evaluator: Evaluator, parts: list[tuple[list[int], int, int]], pictures: dict[tuple[int, int], Logits]
) -> Logits:
    """The logits of all tokens of one batch.

    Args:
        parts: (tokens, first position, sequence).
        pictures: features by sequence and position.
    """
    tokens = [0 if token == PICTURE else token for part, _, _ in parts for token in part]
    positions = np.array([s + i for part, s, _ in parts for i in range(len(part))], np.int32)
    numbers = [number for part, _, number in parts for _ in part]
    places = list(zip(numbers, positions.tolist(), strict=True))
    standing = [(places.index(place), rows) for place, rows in pictures.items() if place in places]
    batch = Batch(
        np.array(tokens, np.int32),
        positions,
        np.array(numbers, np.int32),
        np.arange(len(tokens), dtype=np.int32),
        pictures=Pictures.of(positions, sorted(standing, key=lambda one: one[0])),
    )
    return evaluator.evaluate(batch).copy()


def agrees(found: Logits, expected: Logits) -> None:
    assert np.abs(found - expected).max() < 1e-3
    assert (found.argmax(-1) == expected.argmax(-1)).all()


WRITERS: list[Callable[[Path, Any], None]] = [write_gemma3_vision, write_model]


@pytest.fixture(scope="module", params=WRITERS, ids=["written", "converted"])
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A model as a file and as transformers has it."""
    model = hf_gemma3_vision.gemma3(3)
    path = tmp_path_factory.mktemp("gemma3") / "model.gguf"
    request.param(path, model)
    return path, model


@pytest.mark.parametrize("params", [BackendParams(num_threads=1), *WAYS])
def test_features_agree_with_transformers(
    example: tuple[Path, Any], backend_name: str, params: BackendParams
) -> None:
    path, model = example
    with opened(path, backend_name, params=params) as evaluator:
        found = features(evaluator, picture(2))
    expected = hf_gemma3_vision.features(model, picture(2))
    assert expected.shape == (TOKENS, 64)
    assert np.abs(found - expected).max() < 1e-3 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("cuts", [[], [5], [5, 9], [3, 5, 20]])
def test_logits_agree_with_transformers(
    example: tuple[Path, Any], backend_name: str, cuts: list[int]
) -> None:
    """All at once, and in chunks of which one has the whole picture."""
    path, model = example
    tokens = [*text(4, 5), *OWN, *text(5, 30)]
    expected = hf_gemma3_vision.logits(model, tokens, [picture(4)])
    other = hf_gemma3_vision.logits(model, tokens, [picture(5)])
    assert np.abs(expected[9:] - other[9:]).max() > 0.05
    with opened(path, backend_name) as evaluator:
        pictures = {(0, 5): features(evaluator, picture(4))}
        edges = [0, *cuts, len(tokens)]
        found = [
            evaluate(evaluator, [(tokens[begin:end], begin, 0)], pictures) for begin, end in pairwise(edges)
        ]
    agrees(np.concatenate(found), expected)


def test_two_sequences_in_one_batch(example: tuple[Path, Any], backend_name: str) -> None:
    path, model = example
    one, two = [*OWN, *text(6, 14)], [*text(7, 6), *OWN, *text(8, 2), *OWN, *text(9, 4)]
    pixels = [picture(n) for n in (6, 7, 8)]
    expected = [
        hf_gemma3_vision.logits(model, one, pixels[:1]),
        hf_gemma3_vision.logits(model, two, pixels[1:]),
    ]
    with opened(path, backend_name, sequences=2) as evaluator:
        places = ((0, 0), (1, 6), (1, 12))
        pictures = {place: features(evaluator, one) for place, one in zip(places, pixels, strict=True)}
        found = evaluate(evaluator, [(one[:10], 0, 0), (two[:18], 0, 1)], pictures)
        rest = evaluate(evaluator, [(one[10:], 10, 0), (two[18:], 18, 1)], pictures)
    agrees(found[:10], expected[0][:10])
    agrees(found[10:], expected[1][:18])
    agrees(rest[:8], expected[0][10:])
    agrees(rest[8:], expected[1][18:])


def test_without_a_picture_it_is_a_text_model(example: tuple[Path, Any], backend_name: str) -> None:
    path, model = example
    tokens = text(10, 30)
    with opened(path, backend_name) as evaluator:
        agrees(evaluate(evaluator, [(tokens, 0, 0)], {}), hf_gemma3_vision.logits(model, tokens))


@pytest.mark.parametrize(
    ("keys", "error", "said"),
    [
        ({"mm.tokens_per_image": 5}, GGUFError, "5 tokens cannot stand for 8 × 8 patches"),
        ({"mm.tokens_per_image": 16}, UnsupportedModel, "a window of 8 tokens does not hold a picture of 16"),
        ({"vision.attention.head_count": 5}, GGUFError, "5 heads cannot share 32"),
        ({"vision.patch_size": 9}, GGUFError, "cannot be cut into patches of 9"),
        ({"vision.block_count": 10**6}, GGUFError, "1000000 layers are more"),
    ],
)
def test_files_that_make_no_sense(
    keys: dict[str, Any], error: type[Exception], said: str, tmp_path: Path
) -> None:
    write_gemma3_vision(tmp_path / "model.gguf", hf_gemma3_vision.gemma3(1), keys)
    with pytest.raises(error, match=said), opened(tmp_path / "model.gguf", "ggml"):
        pass


@pytest.mark.parametrize("swapped", [False, True])
def test_an_image_encoder_in_a_file_of_its_own(swapped: bool, backend_name: str, tmp_path: Path) -> None:
    """As llama.cpp has it; in some files two matrices have each other's names."""
    model, pixels = hf_gemma3_vision.gemma3(5), picture(9)
    write_gemma3_text(tmp_path / "text.gguf", model)
    write_gemma3_projector(tmp_path / "mmproj.gguf", model, swapped=swapped)
    params = BackendParams(num_threads=1)
    with new_backend(tmp_path / "text.gguf", params, name=backend_name) as text_backend:
        decoder = build_model(text_backend)
        assert isinstance(decoder, Decoder)
        with new_backend(tmp_path / "mmproj.gguf", params, name=backend_name) as eyes:
            decoder.see_through(eyes)
            eyes.load()
            vision = decoder.vision
            assert vision is not None
            with eyes.new_context() as context:
                found = vision.encode(context, pixels, eyes.cache_config().mask_dtype)
                context.forward(found).compute(found)
                assert np.abs(found.floats() - hf_gemma3_vision.features(model, pixels)).max() < 1e-3


def test_other_image_encoders_are_refused(tmp_path: Path) -> None:
    model = hf_gemma3_vision.gemma3(5)
    write_gemma3_text(tmp_path / "text.gguf", model)
    write_gemma3_projector(tmp_path / "mmproj.gguf", model, keys={"projector_type": "pixtral"})
    with pytest.raises(UnsupportedModel, match="of type 'pixtral' is not Gemma 3's"):
        load_model(tmp_path / "text.gguf", LoadOptions(projector=str(tmp_path / "mmproj.gguf")))
    write_tiny_mllama(tmp_path / "mllama.gguf", sees=False)
    with pytest.raises(UnsupportedModel, match="takes no image encoder"):
        load_model(tmp_path / "mllama.gguf", LoadOptions(projector=str(tmp_path / "mmproj.gguf")))
