"""Pictures of any size among a prompt's tokens, as Mistral 3 has them: in lines that may be divided."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.driving import loaded, request, run
from tests.tiny_mllama import picture
from tests.tiny_pixtral import write_tiny_pixtral

from puna.chat.capabilities import picture_tokens
from puna.engine.load import LoadedModel, load_model
from puna.engine.options import LoadOptions
from puna.engine.request import GenerateRequest, Image
from puna.errors import InvalidOption
from puna.gguf import GGUFFile

# Of one token, of one line, of several, and larger than the model looks at.
SIZES = [(8, 8), (30, 5), (20, 29), (90, 40)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_pixtral(tmp_path_factory.mktemp("models") / "pixtral.gguf")


@pytest.fixture
def model(path: Path) -> Iterator[LoadedModel]:
    with loaded(path, num_ctx=256, num_parallel=4, num_batch=32) as model:
        yield model


def asked(text: str, *images: tuple[int, bytes]) -> GenerateRequest:
    """A request for the bytes of a text, with pictures before some of them."""
    prompt = [2 + byte % 200 for byte in text.encode()]
    return request(prompt, 12, images=tuple(Image(at, content) for at, content in images))


def told(path: Path, wanted: GenerateRequest) -> str:
    """The answer of a model that has not seen anything else."""
    with loaded(path, num_ctx=256, num_batch=256) as fresh:
        (answer,) = run(fresh.engine, wanted)
        assert answer.error is None
        return answer.text


WANTED = [
    asked("look at it"),
    *(asked("look at it", (n, picture(n, size))) for n, size in enumerate(SIZES)),
    asked("look at it", (0, picture(1, SIZES[2])), (0, picture(2, SIZES[3])), (4, picture(3, SIZES[0]))),
]


def test_the_answer_depends_on_the_picture_its_size_and_place(path: Path) -> None:
    same = [asked("look at it", (at, picture(1, size))) for at in (0, 4) for size in SIZES[1:]]
    assert len({told(path, one) for one in (*same, asked("look at it"))}) == 7


@pytest.mark.parametrize("num_batch", [7, 32])
def test_many_at_once_answer_as_alone(path: Path, num_batch: int) -> None:
    """A picture is divided where a batch is smaller."""
    with loaded(path, num_ctx=256, num_parallel=4, num_batch=num_batch) as model:
        assert model.num_batch == num_batch
        for answer, one in zip(run(model.engine, *WANTED), WANTED, strict=True):
            assert answer.error is None and answer.text == told(path, one)
        model.engine.forget()
        model.engine.check()


def test_an_image_encoder_in_a_file_of_its_own(path: Path, tmp_path: Path) -> None:
    """llama.cpp's two files say what Ollama's one does."""
    text = write_tiny_pixtral(tmp_path / "text.gguf", projector=tmp_path / "mmproj.gguf")
    options = LoadOptions(num_threads=1, kv_cache_type="f32", projector=str(tmp_path / "mmproj.gguf"))
    with load_model(text, options) as model:
        for answer, one in zip(run(model.engine, *WANTED), WANTED, strict=True):
            assert answer.text == told(path, one)


def test_what_was_seen_is_not_evaluated_again(path: Path, model: LoadedModel) -> None:
    """But for a picture of which the rest is another."""
    first, other = picture(1, SIZES[3]), picture(2, SIZES[3])
    wanted = [
        (asked("look at it", (0, first)), 0),
        (asked("look at it and say", (0, first)), 10 + 10),
        (asked("look at it", (0, other)), 0),
    ]
    for one, cached in wanted:
        (answer,) = run(model.engine, one)
        assert (answer.text, answer.counts.cached_tokens) == (told(path, one), cached)


@pytest.mark.parametrize("apart", [False, True])
def test_servers_know_how_many_tokens_a_picture_takes(path: Path, apart: bool, tmp_path: Path) -> None:
    projector = tmp_path / "mmproj.gguf"
    text = write_tiny_pixtral(tmp_path / "text.gguf", projector=projector) if apart else path
    options = LoadOptions(projector=str(projector)) if apart else LoadOptions()
    with load_model(text, options) as model:
        gallery = model.engine._gallery
        assert gallery is not None
        if apart:
            with GGUFFile.open(projector) as file:
                tokens = picture_tokens(model.metadata, file.metadata)
            assert picture_tokens(model.metadata) is None
        else:
            tokens = picture_tokens(model.metadata)
        assert tokens is not None
        for size in SIZES:
            upright, lying = (picture(1, sides) for sides in (size, size[::-1]))
            lengths = [gallery.placement(content).length for content in (upright, lying)]
            # Its tag may say that a picture is to be turned.
            assert tokens(upright) == tokens(lying) == max(lengths)


@pytest.mark.parametrize("content", [b"", b"no picture", picture(1)[:20]])
def test_what_has_no_size_is_refused(model: LoadedModel, content: bytes) -> None:
    with pytest.raises(InvalidOption, match="invalid image: "):
        model.engine.submit(1, asked("look", (2, content)))
    assert model.engine.idle
