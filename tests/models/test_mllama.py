"""Llama 3.2 Vision against transformers: features of pictures, and logits of texts with them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.models import hf_mllama, hf_models
from tests.models.driver import WAYS, Logits, evaluate, opened
from tests.models.hf_mllama import IMAGE, PICTURE, ROWS, TILES, write_mllama

from puna.engine.evaluator import Batch, Evaluator
from puna.engine.pictures import Gallery
from puna.errors import GGUFError
from puna.images.pixels import Pixels, tiled
from puna.ml import BackendParams, DType
from puna.models.base import CrossDecoder

pytestmark = pytest.mark.transformers

# One tile, two side by side, two above each other, four.
SIZES = [(20, 20), (60, 20), (25, 50), (70, 70)]

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def picture(seed: int, size: tuple[int, int] = (70, 70)) -> Pixels:
    """A picture of random colours."""
    values = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return tiled(Image.fromarray(values), IMAGE, TILES)


class Looker:
    """A model, and pictures shown to its sequences."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        model = evaluator.model
        assert isinstance(model, CrossDecoder) and model.vision is not None
        self.model, self.vision = model, model.vision
        gallery = Gallery.of(evaluator.backend, model, evaluator.cache)
        assert gallery is not None
        self.gallery = gallery

    def features(self, pixels: Pixels) -> Logits:
        backend = self.evaluator.backend
        with backend.new_context() as context:
            result = self.vision.encode(context, pixels, backend.cache_config().mask_dtype)
            context.forward(result).compute(result)
            return result.floats()

    def show(self, pixels: Pixels, position: int, sequence: int = 0) -> None:
        encoder = self.evaluator.cache.encoder
        assert encoder is not None
        blocks = encoder.place(sequence, position, pixels.tiles.tobytes(), len(pixels.tiles))
        if blocks:
            self.gallery.write(self.features(pixels), blocks)


@contextmanager
def looking(path: Path, backend: str, **options: Any) -> Iterator[Looker]:
    with opened(path, backend, **options) as evaluator:
        yield Looker(evaluator)


def text(seed: int, count: int) -> list[int]:
    return hf_models.random_tokens(seed, count)


def agrees(found: Logits, expected: Logits) -> None:
    assert np.abs(found - expected).max() < 1e-3
    assert (found.argmax(-1) == expected.argmax(-1)).all()


@pytest.mark.parametrize("size", SIZES)
def test_features_agree_with_transformers(size: tuple[int, int], backend_name: str, tmp_path: Path) -> None:
    model, pixels = hf_mllama.mllama(1), picture(2, size)
    write_mllama(tmp_path / "model.gguf", model)
    expected = hf_mllama.features(model, pixels)
    assert expected.shape == (len(pixels.tiles) * ROWS, 64)
    with looking(tmp_path / "model.gguf", backend_name) as looker:
        found = looker.features(pixels)
    assert np.abs(found - expected).max() < 1e-3 * max(1, np.abs(expected).max())


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A model as a file and as transformers has it."""
    model = hf_mllama.mllama(3, rope_parameters=LLAMA3)
    path = tmp_path_factory.mktemp("mllama") / "model.gguf"
    write_mllama(path, model)
    return path, model


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunk", [40, 7, 1])
def test_logits_agree_with_transformers(
    example: tuple[Path, Any], backend_name: str, chunk: int, size: tuple[int, int]
) -> None:
    path, model = example
    pixels, tokens = picture(4, size), [*text(4, 6), PICTURE, *text(5, 33)]
    expected = hf_mllama.logits(model, tokens, [pixels])
    assert np.abs(expected[7:] - hf_mllama.logits(model, [*tokens[:6], 0, *tokens[7:]])[7:]).max() > 0.1
    with looking(path, backend_name) as looker:
        looker.show(pixels, 6)
        agrees(evaluate(looker.evaluator, tokens, chunk=chunk), expected)


@pytest.mark.parametrize("params", WAYS)
def test_ways_to_compute_change_nothing(
    example: tuple[Path, Any], backend_name: str, params: BackendParams
) -> None:
    path, model = example
    pixels, tokens = picture(4), [*text(4, 3), PICTURE, *text(5, 20)]
    with looking(path, backend_name, params=params) as looker:
        assert np.abs(looker.features(pixels) - hf_mllama.features(model, pixels)).max() < 1e-3
        looker.show(pixels, 3)
        agrees(evaluate(looker.evaluator, tokens, chunk=9), hf_mllama.logits(model, tokens, [pixels]))


def test_without_a_picture_it_is_a_text_model(example: tuple[Path, Any], backend_name: str) -> None:
    path, model = example
    tokens = text(6, 30)
    with looking(path, backend_name) as looker:
        agrees(evaluate(looker.evaluator, tokens, chunk=8), hf_mllama.logits(model, tokens))


def _batch(*parts: tuple[Sequence[int], int, int]) -> Batch:
    """Parts (tokens, first position, sequence) of one batch, with the logits of all."""
    tokens = [token for part, _, _ in parts for token in part]
    positions = [start + index for part, start, _ in parts for index in range(len(part))]
    numbers = [number for part, _, number in parts for _ in part]
    columns = [np.asarray(column, np.int32) for column in (tokens, positions, numbers)]
    return Batch(columns[0], columns[1], columns[2], np.arange(len(tokens), dtype=np.int32))


def test_sequences_with_pictures_of_their_own_and_without_in_one_batch(
    example: tuple[Path, Any], backend_name: str
) -> None:
    path, model = example
    one, other = picture(7), picture(8, (20, 20))
    texts = [[*text(7, 2), PICTURE, *text(8, 17)], [PICTURE, *text(9, 19)], text(10, 20)]
    expected = [hf_mllama.logits(model, t, p) for t, p in zip(texts, ([one], [other], []), strict=True)]
    with looking(path, backend_name, sequences=3) as looker:
        looker.show(one, 2, sequence=0)
        looker.show(other, 0, sequence=1)
        for begin, end in ((0, 9), (9, 10), (10, 20)):
            parts = [(tokens[begin:end], begin, number) for number, tokens in enumerate(texts)]
            found = looker.evaluator.evaluate(_batch(*parts)).copy()
            for number, rows in enumerate(np.split(found, 3)):
                agrees(rows, expected[number][begin:end])


def test_two_pictures_side_by_side_and_a_later_one(example: tuple[Path, Any], backend_name: str) -> None:
    """Text looks at both of those that stand together, and from the third on at that only."""
    path, model = example
    pictures = [picture(11, (20, 20)), picture(12, (60, 20)), picture(13)]
    tokens = [*text(11, 3), PICTURE, PICTURE, *text(12, 8), PICTURE, *text(13, 10)]
    expected = hf_mllama.logits(model, tokens, pictures)
    with looking(path, backend_name) as looker:
        looker.show(pictures[0], 3)
        looker.show(pictures[1], 4)
        first = evaluate(looker.evaluator, tokens[:13], chunk=5)
        assert looker.evaluator.cache.can_resume(0, 3) and looker.evaluator.cache.can_resume(0, 13)
        looker.show(pictures[2], 13)
        second = evaluate(looker.evaluator, tokens[13:], chunk=20, start=13)
        assert not looker.evaluator.cache.can_resume(0, 13) and looker.evaluator.cache.can_resume(0, 14)
    agrees(np.concatenate((first, second)), expected)


def test_a_branch_sees_what_its_origin_saw(example: tuple[Path, Any], backend_name: str) -> None:
    path, model = example
    pixels = picture(14, (60, 20))
    begin, ends = [PICTURE, *text(14, 11)], [text(15, 8), text(16, 8)]
    with looking(path, backend_name, sequences=2) as looker:
        looker.show(pixels, 0)
        evaluate(looker.evaluator, begin, chunk=12)
        looker.evaluator.cache.copy_prefix(0, 1, 12)
        rest = [evaluate(looker.evaluator, end, chunk=3, start=12, sequence=i) for i, end in enumerate(ends)]
        looker.evaluator.cache.remove(0, 0)
        more = evaluate(looker.evaluator, [5], chunk=1, start=20, sequence=1)
    for found, end in zip(rest, ends, strict=True):
        agrees(found, hf_mllama.logits(model, begin + end, [pixels])[12:])
    agrees(more, hf_mllama.logits(model, [*begin, *ends[1], 5], [pixels])[20:])


def test_keys_of_half_precision(example: tuple[Path, Any], backend_name: str) -> None:
    path, model = example
    pixels, tokens = picture(4), [PICTURE, *text(5, 20)]
    with looking(path, backend_name, dtype=DType.F16) as looker:
        looker.show(pixels, 0)
        found = evaluate(looker.evaluator, tokens, chunk=21)
    assert np.abs(found - hf_mllama.logits(model, tokens, [pixels])).max() < 0.05


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"attention.cross_attention_layers": [1, 4]}, "layers [1, 4] of 5 cannot look across"),
        ({"attention.cross_attention_layers": [-1]}, "cannot look across"),
        ({"vision.intermediate_layers_indices": [3]}, "there is no layer 3"),
        ({"vision.attention.head_count": 5}, "5 heads cannot share 32 elements evenly"),
        ({"vision.patch_size": 13}, "cannot be cut into patches of 13"),
        ({"vision.image_size": 28000}, "cannot be cut into patches"),
        ({"vision.max_num_tiles": 400}, "400 tiles are more"),
        ({"vision.global.block_count": 10**6}, "1000000 layers are more"),
    ],
)
def test_files_that_make_no_sense(keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    write_mllama(tmp_path / "model.gguf", hf_mllama.mllama(1), keys)
    with pytest.raises(GGUFError, match=said.replace("[", r"\[")), opened(tmp_path / "model.gguf", "ggml"):
        pass
