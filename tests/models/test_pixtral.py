"""Pixtral's image encoder against transformers: pictures of several sizes, alone and in texts."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.models import hf_models, hf_pixtral
from tests.models.driver import WAYS, Logits, opened
from tests.models.hf_pixtral import BREAK, EDGE, END, PATCH, PICTURE
from tests.models.hf_to_gguf import write_model

from puna.engine.evaluator import Batch, Evaluator, Pictures
from puna.engine.load import load_model
from puna.engine.options import LoadOptions
from puna.errors import GGUFError, UnsupportedModel
from puna.images.longest import LongestEdge
from puna.images.pixels import CLIP_DEVIATION, Pixels
from puna.ml import Backend, BackendParams, DType, new_backend
from puna.models import build_model
from puna.models.base import Decoder, Vision

pytestmark = pytest.mark.transformers

# Whole squares, one line, one column, larger than the longest edge either way.
SIZES = [(56, 56), (40, 9), (5, 41), (200, 90), (70, 333)]


def content(seed: int, width: int, height: int) -> bytes:
    """The file of a picture of random colours."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def text(seed: int, count: int) -> list[int]:
    """Tokens, none of which stands for pictures."""
    tokens = hf_models.random_tokens(seed, count)
    return [20 if token in (PICTURE, BREAK, END) else token for token in tokens]


def vision_of(evaluator: Evaluator) -> Vision:
    model = evaluator.model
    assert isinstance(model, Decoder) and model.vision is not None
    return model.vision


def encoded(backend: Backend, vision: Vision, pixels: Pixels) -> Logits:
    with backend.new_context() as context:
        result = vision.encode(context, pixels, backend.cache_config().mask_dtype)
        context.forward(result).compute(result)
        return result.floats()


def evaluate(
    evaluator: Evaluator, parts: list[tuple[list[int], int, int]], pictures: dict[tuple[int, int], Logits]
) -> Logits:
    """The logits of all tokens of one batch.

    Args:
        parts: (tokens, first position, sequence).
        pictures: features by sequence and position; some of them may be in other batches.
    """
    tokens: list[int] = []
    positions: list[int] = []
    numbers: list[int] = []
    standing: list[tuple[int, Logits]] = []
    for part, start, number in parts:
        for (sequence, begin), rows in pictures.items():
            first, last = max(begin, start), min(begin + len(rows), start + len(part))
            if sequence == number and first < last:
                standing.append((len(tokens) + first - start, rows[first - begin : last - begin]))
        tokens += part
        positions += range(start, start + len(part))
        numbers += [number] * len(part)
    places = np.array(positions, np.int32)
    batch = Batch(
        np.array(tokens, np.int32),
        places,
        np.array(numbers, np.int32),
        np.arange(len(tokens), dtype=np.int32),
        pictures=Pictures.of(places, standing, whole=False),
    )
    return evaluator.evaluate(batch).copy()


def agrees(found: Logits, expected: Logits) -> None:
    assert np.abs(found - expected).max() < 1e-3
    assert (found.argmax(-1) == expected.argmax(-1)).all()


@pytest.fixture(scope="module", params=["Ollama's", "converted", "Pixtral, converted"])
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A model as one file and as transformers has it."""
    model = hf_pixtral.pixtral(2, patch_size=8) if "Pixtral" in request.param else hf_pixtral.mistral3(3)
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    write = hf_pixtral.write_whole if request.param == "Ollama's" else write_model
    write(path, model)
    return path, model


@pytest.mark.parametrize("merge", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_prepared_as_transformers_does(
    size: tuple[int, int], merge: int, tmp_path: Path
) -> None:
    from transformers import PixtralImageProcessor

    model = hf_pixtral.mistral3(1, merge=merge)
    hf_pixtral.write_whole(tmp_path / "model.gguf", model)
    side = merge * PATCH
    processor = PixtralImageProcessor(size={"longest_edge": EDGE}, patch_size={"height": side, "width": side})
    # Smooth, as what two ways to resize make of noise differs by more than rounding.
    across, down = np.meshgrid(np.linspace(0, 3, size[0]), np.linspace(0, 2, size[1]))
    values = np.stack([np.sin(across + k) * np.cos(down - k) for k in range(3)], -1) * 127 + 128
    image = Image.fromarray(values.astype(np.uint8))
    file = BytesIO()
    image.save(file, "PNG")
    with opened(tmp_path / "model.gguf", "ggml") as evaluator:
        vision = vision_of(evaluator)
        found = vision.prepare(file.getvalue()).tiles
        placement = vision.placement_of(file.getvalue())
    expected = processor(images=image, return_tensors="np")["pixel_values"]
    assert found.shape == expected.shape
    steps = 1 / 255 / np.array(CLIP_DEVIATION).reshape(3, 1, 1)
    assert (np.abs(found - expected) / steps).max() < 1.001
    rows, columns = (length // side for length in found.shape[2:])
    assert placement.count == len(hf_pixtral.own_tokens(model, Pixels(found))) == rows * (columns + 1) - 1
    assert (placement.token, placement.after, placement.whole) == (PICTURE, (END,), False)


@pytest.mark.parametrize("params", [BackendParams(num_threads=1), *WAYS])
def test_features_agree_with_transformers(
    example: tuple[Path, Any], backend_name: str, params: BackendParams
) -> None:
    path, model = example
    with opened(path, backend_name, params=params) as evaluator:
        vision = vision_of(evaluator)
        for seed, size in enumerate(SIZES):
            pixels = vision.prepare(content(seed, *size))
            found, expected = encoded(evaluator.backend, vision, pixels), hf_pixtral.features(model, pixels)
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() < 1e-3 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("cuts", [[], [3], [4, 9, 12], [5, 61, 62]])
def test_logits_agree_with_transformers(
    example: tuple[Path, Any], backend_name: str, cuts: list[int]
) -> None:
    """All at once, and in chunks that cut pictures, between two lines and within one."""
    path, model = example
    with opened(path, backend_name, max_batch=128) as evaluator:
        vision = vision_of(evaluator)
        pixels = [vision.prepare(content(n, *SIZES[n])) for n in (0, 1)]
        first, second = (hf_pixtral.own_tokens(model, one) for one in pixels)
        tokens = [*text(4, 5), *first, END, *text(5, 4), *second, END, *text(6, 20)]
        places = {(0, 5): pixels[0], (0, 5 + len(first) + 1 + 4): pixels[1]}
        pictures = {place: encoded(evaluator.backend, vision, one) for place, one in places.items()}
        expected = hf_pixtral.logits(model, tokens, pixels)
        other = hf_pixtral.logits(model, tokens, [pixels[0], vision.prepare(content(9, *SIZES[1]))])
        assert np.abs(expected[-20:] - other[-20:]).max() > 0.05
        found = [
            evaluate(evaluator, [(tokens[begin:end], begin, 0)], pictures)
            for begin, end in pairwise([0, *cuts, len(tokens)])
        ]
    agrees(np.concatenate(found), expected)


def test_two_sequences_in_one_batch(example: tuple[Path, Any], backend_name: str) -> None:
    path, model = example
    with opened(path, backend_name, sequences=2, capacity=256, max_batch=128) as evaluator:
        vision = vision_of(evaluator)
        pixels = [vision.prepare(content(n, *SIZES[n])) for n in (1, 2, 3)]
        own = [hf_pixtral.own_tokens(model, one) for one in pixels]
        one = [*own[0], END, *text(6, 14)]
        two = [*text(7, 6), *own[1], END, *text(8, 2), *own[2], END, *text(9, 4)]
        places = ((0, 0), (1, 6), (1, 6 + len(own[1]) + 3))
        pictures = {place: encoded(evaluator.backend, vision, pixels[n]) for n, place in enumerate(places)}
        found = evaluate(evaluator, [(one[:4], 0, 0), (two[:15], 0, 1)], pictures)
        rest = evaluate(evaluator, [(one[4:], 4, 0), (two[15:], 15, 1)], pictures)
    expected = hf_pixtral.logits(model, one, pixels[:1]), hf_pixtral.logits(model, two, pixels[1:])
    agrees(found[:4], expected[0][:4])
    agrees(found[4:], expected[1][:15])
    agrees(rest[: len(one) - 4], expected[0][4:])
    agrees(rest[len(one) - 4 :], expected[1][15:])


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16])
def test_without_a_picture_it_is_a_text_model(
    example: tuple[Path, Any], backend_name: str, dtype: DType
) -> None:
    path, model = example
    tokens = text(10, 30)
    with opened(path, backend_name, dtype=dtype) as evaluator:
        found = evaluate(evaluator, [(tokens, 0, 0)], {})
    difference = np.abs(found - hf_pixtral.logits(model, tokens)).max()
    assert difference < (1e-3 if dtype is DType.F32 else 5e-2)


@contextmanager
def looking_through(
    folder: Path, architecture: str, model: Any, name: str
) -> Iterator[tuple[Backend, Vision]]:
    """The image encoder of a model that is written as two files."""
    hf_pixtral.write_text(folder / "text.gguf", model, architecture)
    hf_pixtral.write_projector(folder / "mmproj.gguf", model)
    params = BackendParams(num_threads=1)
    with (
        new_backend(folder / "text.gguf", params, name=name) as text_backend,
        new_backend(folder / "mmproj.gguf", params, name=name) as eyes,
    ):
        decoder = build_model(text_backend)
        assert isinstance(decoder, Decoder)
        decoder.see_through(eyes)
        eyes.load()
        assert decoder.vision is not None
        yield eyes, decoder.vision


@pytest.mark.parametrize(
    ("architecture", "model"),
    [
        ("mistral3", hf_pixtral.mistral3(4)),
        ("llama", hf_pixtral.mistral3(5, multimodal_projector_bias=True)),
        ("llama", hf_pixtral.mistral3(6, merge=1)),
        ("llama", hf_pixtral.pixtral(7)),
        ("llama", hf_pixtral.pixtral(8, hidden_act="gelu", patch_size=8)),
    ],
    ids=["merged", "merged, with biases", "merger of single patches", "pixtral", "pixtral, gelu"],
)
def test_an_image_encoder_in_a_file_of_its_own(
    architecture: str, model: Any, backend_name: str, tmp_path: Path
) -> None:
    """As llama.cpp has it: other names, and rows of queries and keys in another order."""
    with looking_through(tmp_path, architecture, model, backend_name) as (eyes, vision):
        for seed, size in enumerate(SIZES):
            pixels = vision.prepare(content(seed, *size))
            found, expected = encoded(eyes, vision, pixels), hf_pixtral.features(model, pixels)
            assert vision.placement_of(content(seed, *size)).count == len(expected)
            assert np.abs(found - expected).max() < 1e-3 * max(1, np.abs(expected).max())


def test_other_image_encoders_are_refused(tmp_path: Path) -> None:
    model = hf_pixtral.pixtral(5)
    hf_pixtral.write_text(tmp_path / "text.gguf", model, "llama")
    hf_pixtral.write_projector(tmp_path / "mmproj.gguf", model, {"projector_type": "gemma3"})
    with pytest.raises(UnsupportedModel, match="of type 'gemma3' is not Pixtral's"):
        load_model(tmp_path / "text.gguf", LoadOptions(projector=str(tmp_path / "mmproj.gguf")))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"vision.attention.head_count": 5}, "5 heads cannot share 64 elements"),
        ({"vision.attention.head_count": 32}, "32 heads cannot share 64 elements"),
        ({"vision.block_count": 10**6}, "1000000 layers are more"),
        ({"vision.image_size": 7}, "pictures of 7 pixels cannot be cut into squares of 8"),
        ({"vision.image_size": 10**5}, "pictures of 100000 pixels cannot be cut into squares of 8"),
        ({"vision.patch_size": 0}, "must be at least 1"),
        ({"spatial_merge_size": 0}, "cannot be cut into squares of 0"),
        ({"vision.rope.freq_base": -1.0}, "cannot have the frequency base -1.0"),
    ],
)
def test_files_that_make_no_sense(keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    hf_pixtral.write_whole(tmp_path / "model.gguf", hf_pixtral.mistral3(1), keys)
    with pytest.raises(GGUFError, match=said), opened(tmp_path / "model.gguf", "ggml"):
        pass


def test_the_largest_picture_is_within_the_edge() -> None:
    within = LongestEdge(1540, 28)
    assert within.largest == (1540, 1540) and within.tokens(5000, 5000) == 55 * 56 - 1
    assert within.size(3000, 1000) == (1540, 532) and within.size(28, 29) == (28, 56)
    assert within.size(1, 1) == (28, 28) and within.size(16_000, 1) == (1540, 28)
