"""Qwen 2.5-VL and 3-VL against transformers: features of pictures, logits of texts with and without them."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.models import hf_models, hf_qwenvl
from tests.models.agreement import agrees, check_removal
from tests.models.driver import WAYS, Logits, opened
from tests.models.hf_qwenvl import PICTURE
from tests.models.hf_to_gguf import write_model
from tests.tiny_qwenvl import write_tiny_qwenvl

from puna.engine.evaluator import Batch, Evaluator, Pictures
from puna.engine.load import load_model
from puna.engine.options import LoadOptions
from puna.engine.pictures import Placed, coordinates
from puna.errors import GGUFError, UnsupportedModel, WeightError
from puna.gguf import GGMLType, GGUFFile, GGUFWriter, metadata_of
from puna.images.pixels import CLIP_DEVIATION, CLIP_MEAN, Pixels, resized
from puna.images.resizing import Resizing
from puna.ml import BackendParams
from puna.models.base import Decoder
from puna.models.vision.qwen3vl import Qwen3Vision

pytestmark = pytest.mark.transformers

# The pictures' sizes in patches of two by two, which are odd, of one row, and of several windows.
SIZES = [(1, 1), (5, 3), (4, 4), (1, 6), (7, 2)]

CASES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "2.5": (hf_qwenvl.qwen25vl, {}),
    "2.5, tied, one head for all": (
        hf_qwenvl.qwen25vl,
        {"tie_word_embeddings": True, "num_key_value_heads": 1},
    ),
    "2.5, all heads, other sections": (
        hf_qwenvl.qwen25vl,
        {
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [4, 1, 3]},
        },
    ),
    "2.5, windows of one token": (hf_qwenvl.qwen25vl, {"vision": {"window_size": 8}}),
    "2.5, windows of three tokens, none but the last layer full": (
        hf_qwenvl.qwen25vl,
        {"vision": {"window_size": 24, "fullatt_block_indexes": [2]}},
    ),
    "2.5, squares of three by three": (
        hf_qwenvl.qwen25vl,
        {"vision": {"spatial_merge_size": 3, "window_size": 24}},
    ),
    "2.5, squares of one": (hf_qwenvl.qwen25vl, {"vision": {"spatial_merge_size": 1, "window_size": 12}}),
    "3": (hf_qwenvl.qwen3vl, {}),
    "3, tied, one head for all": (
        hf_qwenvl.qwen3vl,
        {
            "tie_word_embeddings": True,
            "num_key_value_heads": 1,
            "head_dim": 24,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 4, 4]},
        },
    ),
    "3, sections that leave some over": (
        hf_qwenvl.qwen3vl,
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [4, 2, 2]}},
    ),
    "3, a table of nine places, features of the last layer": (
        hf_qwenvl.qwen3vl,
        {"vision": {"num_position_embeddings": 9, "deepstack_visual_indexes": [2]}},
    ),
    "3, as many features as layers": (
        hf_qwenvl.qwen3vl,
        {"vision": {"deepstack_visual_indexes": [0, 1, 2]}, "num_hidden_layers": 2},
    ),
    "3, no features of layers": (hf_qwenvl.qwen3vl, {"vision": {"deepstack_visual_indexes": []}}),
    "3, squares of three by three": (hf_qwenvl.qwen3vl, {"vision": {"spatial_merge_size": 3}}),
    "3, with experts": (
        hf_qwenvl.qwen3vl,
        {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 40},
    ),
}


def picture(model: Any, seed: int, size: tuple[int, int]) -> Pixels:
    """A picture of random colours, of so many columns and rows of tokens."""
    values = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    vision = model.config.vision_config
    factor = vision.patch_size * vision.spatial_merge_size
    width, height = (side * factor for side in size)
    return resized(Image.fromarray(values), (width, height), CLIP_MEAN, CLIP_DEVIATION)


def text(seed: int, count: int) -> list[int]:
    return hf_models.random_tokens(seed, count)


def features(evaluator: Evaluator, pixels: Pixels) -> Logits:
    backend, model = evaluator.backend, evaluator.model
    assert isinstance(model, Decoder) and model.vision is not None
    with backend.new_context() as context:
        result = model.vision.encode(context, pixels, backend.cache_config().mask_dtype)
        context.forward(result).compute(result)
        return result.floats()


class Reader:
    """Texts with pictures, one for each sequence, of which parts are evaluated.

    Args:
        texts: tokens, and pictures with their columns and rows, by the places of their first tokens.
    """

    def __init__(
        self, evaluator: Evaluator, texts: list[tuple[list[int], dict[int, tuple[Pixels, tuple[int, int]]]]]
    ) -> None:
        self.evaluator = evaluator
        self.texts = [tokens for tokens, _ in texts]
        self.placed = [
            [
                Placed(begin, columns * rows, b"", b"", columns, whole=False)
                for begin, (_, (columns, rows)) in pictures.items()
            ]
            for _, pictures in texts
        ]
        self.features = [[features(evaluator, one) for one, _ in pictures.values()] for _, pictures in texts]

    def read(self, *parts: tuple[int, int, int]) -> list[Logits]:
        """The logits of all tokens of parts, (sequence, begin, end), which make up one batch."""
        tokens: list[int] = []
        positions: list[int] = []
        numbers: list[int] = []
        places, standing = [], []
        for sequence, begin, end in parts:
            for placed, rows in zip(self.placed[sequence], self.features[sequence], strict=True):
                first, last = max(begin, placed.begin), min(end, placed.end)
                if first < last:
                    own = rows[first - placed.begin : last - placed.begin]
                    standing.append((len(tokens) + first - begin, own))
            tokens += [0 if token == PICTURE else token for token in self.texts[sequence][begin:end]]
            positions += range(begin, end)
            numbers += [sequence] * (end - begin)
            places.append(coordinates(begin, end, self.placed[sequence]))
        columns = [np.array(values, np.int32) for values in (tokens, positions, numbers)]
        batch = Batch(
            columns[0],
            columns[1],
            columns[2],
            np.arange(len(tokens), dtype=np.int32),
            pictures=Pictures.of(columns[1], sorted(standing, key=lambda one: one[0]), whole=False),
            coordinates=np.concatenate(places, axis=1),
        )
        edges = np.cumsum([end - begin for _, begin, end in parts])[:-1]
        return np.split(self.evaluator.evaluate(batch).copy(), edges)


@pytest.fixture(scope="module", params=CASES)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A model as a file and as transformers has it."""
    made, changes = CASES[request.param]
    model = made(list(CASES).index(request.param), **changes)
    path = tmp_path_factory.mktemp("qwenvl") / "model.gguf"
    write_model(path, model)
    return path, model


@pytest.fixture(scope="module", params=["2.5", "3"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """One of each kind."""
    model, path = CASES[request.param][0](7), tmp_path_factory.mktemp("qwenvl") / "plain.gguf"
    write_model(path, model)
    return path, model


def agree(found: Logits, expected: Logits) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-3 * max(1, np.abs(expected).max())


def test_features_agree_with_transformers(example: tuple[Path, Any], backend_name: str) -> None:
    path, model = example
    with opened(path, backend_name) as evaluator:
        for seed, size in enumerate(SIZES):
            pixels = picture(model, seed, size)
            agree(features(evaluator, pixels), hf_qwenvl.features(model, pixels))


@pytest.mark.parametrize("params", WAYS)
def test_whatever_the_way(plain: tuple[Path, Any], params: BackendParams) -> None:
    path, model = plain
    pixels = picture(model, 2, (5, 3))
    with opened(path, "ggml", params=params) as evaluator:
        agree(features(evaluator, pixels), hf_qwenvl.features(model, pixels))


def test_encoders_in_half_precision(plain: tuple[Path, Any], backend_name: str, tmp_path: Path) -> None:
    """As published files have them, kernels and all."""
    path, model = plain
    with GGUFFile.open(path) as file, GGUFWriter(tmp_path / "half.gguf") as writer:
        content = path.read_bytes()
        for key in file.metadata:
            writer.add(key, file.metadata[key], file.metadata.entry(key).element)
        for name, tensor in file.tensors.items():
            values = np.frombuffer(content, np.float32, tensor.nbytes // 4, tensor.offset)
            half = name.startswith("v.") and len(tensor.shape) > 1
            kind, type_ = (np.float16, GGMLType.F16) if half else (np.float32, GGMLType.F32)
            writer.add_tensor(name, type_, tensor.shape, values.astype(kind).tobytes())
    pixels = picture(model, 3, (5, 3))
    expected = hf_qwenvl.features(model, pixels)
    with opened(tmp_path / "half.gguf", backend_name) as evaluator:
        found = features(evaluator, pixels)
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_logits_of_a_text(example: tuple[Path, Any], backend_name: str) -> None:
    path, model = example
    tokens = text(3, 40)
    with opened(path, backend_name) as evaluator:
        (found,) = Reader(evaluator, [(tokens, {})]).read((0, 0, 40))
        # Where there are no pictures, the places need not be told.
        evaluator.cache.remove(0, 0)
        alone = evaluator.evaluate(Batch.of(tokens, 0, all_outputs=True)).copy()
    agrees(found, hf_qwenvl.logits(model, tokens))
    assert np.array_equal(found, alone)


@pytest.mark.parametrize("cuts", [[], [5], [9, 10, 17], [4, 8, 12, 16, 20]])
def test_logits_with_a_picture(plain: tuple[Path, Any], backend_name: str, cuts: list[int]) -> None:
    """All at once, and in chunks of which some have only a part of it."""
    path, model = plain
    size = (5, 3)
    pixels, other = picture(model, 4, size), picture(model, 5, size)
    tokens = [*text(4, 5), *[PICTURE] * 15, *text(5, 20)]
    expected = hf_qwenvl.logits(model, tokens, [pixels])
    assert np.abs(expected[5:] - hf_qwenvl.logits(model, tokens, [other])[5:]).max() > 0.05
    with opened(path, backend_name) as evaluator:
        reader = Reader(evaluator, [(tokens, {5: (pixels, size)})])
        found = [reader.read((0, begin, end))[0] for begin, end in pairwise([0, *cuts, len(tokens)])]
    agrees(np.concatenate(found), expected)


def test_two_pictures_of_different_sizes(example: tuple[Path, Any], backend_name: str) -> None:
    path, model = example
    one, two = picture(model, 6, (2, 4)), picture(model, 7, (5, 1))
    tokens = [*text(6, 3), *[PICTURE] * 8, *text(7, 6), *[PICTURE] * 5, *text(8, 9)]
    with opened(path, backend_name) as evaluator:
        reader = Reader(evaluator, [(tokens, {3: (one, (2, 4)), 17: (two, (5, 1))})])
        found = [reader.read((0, 0, 20))[0], reader.read((0, 20, 31))[0]]
    agrees(np.concatenate(found), hf_qwenvl.logits(model, tokens, [one, two]))


def test_two_sequences_in_one_batch(plain: tuple[Path, Any], backend_name: str) -> None:
    path, model = plain
    one, two = picture(model, 8, (3, 2)), picture(model, 9, (1, 4))
    left, right = [*[PICTURE] * 6, *text(9, 14)], [*text(10, 6), *[PICTURE] * 4, *text(11, 12)]
    expected = hf_qwenvl.logits(model, left, [one]), hf_qwenvl.logits(model, right, [two])
    with opened(path, backend_name, sequences=2) as evaluator:
        reader = Reader(evaluator, [(left, {0: (one, (3, 2))}), (right, {6: (two, (1, 4))})])
        first = reader.read((0, 0, 4), (1, 0, 9))
        second = reader.read((0, 4, 20), (1, 9, 22))
    for number in range(2):
        agrees(np.concatenate((first[number], second[number])), expected[number])


@pytest.mark.parametrize("made", [hf_qwenvl.qwen25vl, hf_qwenvl.qwen3vl])
def test_tokens_taken_out_leave_no_trace(made: Callable[..., Any], backend_name: str, tmp_path: Path) -> None:
    model = made(9, num_hidden_layers=1)
    check_removal(tmp_path / "model.gguf", model, write_model, backend_name)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"rope.mrope_section": [2, 3, 4]}, "16 dimensions cannot be rotated in sections of"),
        ({"rope.mrope_section": [-1, 3, 6]}, "cannot be rotated in sections of"),
        ({"rope.mrope_section": [2, 2, 2, 1, 1]}, "cannot be rotated in sections of"),
        ({"vision.attention.head_count": 5}, "5 heads cannot share 32 elements in fours"),
        ({"vision.attention.head_count": 16}, "16 heads cannot share 32 elements in fours"),
        ({"vision.block_count": 10**6}, "1000000 layers are more than any model has"),
        ({"vision.patch_size": 1000}, "no token stands for a square of 2000 pixels"),
        ({"vision.window_size": 9}, "a window of 9 pixels is smaller than what a token stands for"),
        ({"vision.rope.freq_base": 0.0}, "cannot have the frequency base 0.0"),
        ({"vision.image_std": [1, 0, 1]}, "makes no sense: .1.0, 0.0, 1.0"),
    ],
)
def test_files_that_make_no_sense(keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    write_tiny_qwenvl(tmp_path / "model.gguf", keys=keys)
    with pytest.raises(GGUFError, match=said), opened(tmp_path / "model.gguf", "ggml"):
        pass


def test_image_encoders_of_others(tmp_path: Path) -> None:
    projector = tmp_path / "mmproj.gguf"
    write_tiny_qwenvl(tmp_path / "text.gguf", projector=projector, keys={"projector_type": "qwen2vl_merger"})
    with pytest.raises(UnsupportedModel, match=r"of type 'qwen2vl_merger' is not Qwen 2\.5-VL's"):
        load_model(tmp_path / "text.gguf", LoadOptions(projector=str(projector)))
    write_tiny_qwenvl(tmp_path / "text.gguf", projector=projector, keys={"vision.block_count": 3})
    with pytest.raises(WeightError, match=r"it lacks v\.blk\.2\."):
        load_model(tmp_path / "text.gguf", LoadOptions(projector=str(projector)))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"vision.deepstack_visual_indexes": [0, 2]}, "of 2 layers of the image encoder"),
        ({"vision.deepstack_visual_indexes": [1, 1]}, "of 2 layers of the image encoder"),
        ({"vision.deepstack_visual_indexes": [-1]}, "of 2 layers of the image encoder"),
        ({"vision.is_deepstack_layers": [False, False, True]}, "of 2 layers of the image encoder"),
        ({"vision.spatial_merge_size": 0}, "no token stands for a square of 0 pixels|must be at least 1"),
        ({"vision.image_mean": [0.5, 0.5]}, "makes no sense"),
        ({"vision.longest_edge": "x"}, "vision.longest_edge"),
    ],
)
def test_image_encoders_that_make_no_sense(keys: dict[str, Any], said: str) -> None:
    usual: dict[str, Any] = {
        "vision.block_count": 2,
        "vision.embedding_length": 32,
        "vision.attention.head_count": 2,
        "vision.patch_size": 4,
    }
    values = {f"clip.{key}": value for key, value in (usual | keys).items()}
    with pytest.raises(GGUFError, match=said):
        Qwen3Vision(metadata_of({"general.architecture": "clip"} | values), [], 64)


def test_what_a_file_allows_pictures_is_kept_within_bounds() -> None:
    usual: dict[str, Any] = {"general.architecture": "clip", "clip.vision.patch_size": 16}
    for keys, least, most in (
        ({}, 64, 1280),
        ({"vision.shortest_edge": 4096, "vision.longest_edge": 16 << 20}, 4, 1280),
        ({"vision.image_min_pixels": 2048, "vision.image_max_pixels": 102400}, 2, 100),
        ({"vision.image_min_pixels": 1 << 30}, 1280, 1280),
    ):
        values = {f"clip.{key}": value for key, value in keys.items()}
        assert Resizing.of(metadata_of(usual | values), 64) == Resizing(32, least * 1024, most * 1024)


def test_the_other_generations_image_encoder(tmp_path: Path) -> None:
    text, projector = tmp_path / "text.gguf", tmp_path / "mmproj.gguf"
    write_tiny_qwenvl(tmp_path / "other.gguf", projector=projector)
    model = hf_qwenvl.qwen3vl(3)
    write_model(text, model)
    with pytest.raises(UnsupportedModel, match=r"of type 'qwen2\.5vl_merger' is not Qwen 3-VL's"):
        load_model(text, LoadOptions(projector=str(projector)))
