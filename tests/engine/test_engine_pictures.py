"""Pictures in prompts: every request sees its own, whatever the others look at and the cache still has."""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from tests.engine.driving import Answer, finish, loaded, request, run, step
from tests.tiny_gemma import PICTURE_TOKENS, write_tiny_gemma
from tests.tiny_llama import write_tiny_llama
from tests.tiny_mllama import picture, write_tiny_mllama
from tests.tiny_qwenvl import write_tiny_qwenvl

from puna.chat.capabilities import picture_tokens
from puna.engine.load import LoadedModel, load_model, plan_model
from puna.engine.options import LoadOptions
from puna.engine.pictures import (
    Features,
    Gallery,
    Placed,
    common_pictures,
    coordinates,
    expanded,
    groups,
)
from puna.engine.request import GenerateRequest, Image
from puna.errors import ContextLengthExceeded, InvalidOption, MissingCapability
from puna.gguf import GGUFFile
from puna.models.base import Placement

LARGE, SMALL = (90, 90), (20, 20)
CUT_OFF = picture(1)[:200]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "mllama": write_tiny_mllama(folder / "mllama.gguf"),
        "gemma": write_tiny_gemma(folder / "gemma.gguf", sees=True),
        "qwen": write_tiny_qwenvl(folder / "qwen.gguf"),
    }


@pytest.fixture
def path(paths: dict[str, Path]) -> Path:
    """A model whose layers look across at pictures."""
    return paths["mllama"]


@pytest.fixture(params=["mllama", "gemma", "qwen"])
def either(paths: dict[str, Path], request: pytest.FixtureRequest) -> Path:
    """That, or one that has pictures among its tokens, of one size or of any."""
    return paths[request.param]


@pytest.fixture
def model(path: Path) -> Iterator[LoadedModel]:
    with loaded(path, num_ctx=256, num_parallel=4, num_batch=32) as model:
        yield model


@pytest.fixture
def looking(either: Path) -> Iterator[LoadedModel]:
    with loaded(either, num_ctx=256, num_parallel=4, num_batch=32) as model:
        yield model


def asked(text: str, *images: tuple[int, bytes], num_predict: int = 12, **options: object) -> GenerateRequest:
    """A request for the bytes of a text, with pictures before some of them."""
    prompt = [2 + byte % 200 for byte in text.encode()]
    pictures = tuple(Image(at, content) for at, content in images)
    return request(prompt, num_predict, images=pictures, **options)


def told(path: Path, wanted: GenerateRequest) -> str:
    """The answer of a model that has not seen anything else."""
    with loaded(path, num_ctx=256, num_batch=256) as fresh:
        (answer,) = run(fresh.engine, wanted)
        assert answer.error is None
        return answer.text


def test_the_answer_depends_on_the_picture_and_where_it_stands(either: Path) -> None:
    texts = {
        told(either, asked("what is this")),
        told(either, asked("what is this", (0, picture(1)))),
        told(either, asked("what is this", (0, picture(2)))),
        told(either, asked("what is this", (8, picture(1)))),
        told(either, asked("what is this", (0, picture(1)), (8, picture(2)))),
        told(either, asked("what is this", (0, picture(1)), (0, picture(2)))),
    }
    assert len(texts) == 6


def test_many_at_once_answer_as_alone(either: Path, looking: LoadedModel) -> None:
    wanted = [
        asked("without any picture"),
        asked("one at the beginning", (0, picture(1, LARGE))),
        asked("another one within", (7, picture(2, SMALL))),
        asked("the first again, with another text", (0, picture(1, LARGE))),
        asked("two together", (3, picture(3, SMALL)), (3, picture(4, SMALL))),
        asked("one, and later another", (2, picture(5, SMALL)), (9, picture(6, LARGE))),
        asked("a longer text, read in several batches " * 3, (40, picture(7))),
    ]
    for answer, one in zip(run(looking.engine, *wanted), wanted, strict=True):
        assert answer.error is None and answer.text == told(either, one)


def test_what_was_seen_is_not_evaluated_again(
    path: Path, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[bytes] = []
    gallery = model.engine._gallery
    assert gallery is not None
    encoded = gallery._encoded

    def looking(content: bytes) -> Features:
        looked.append(content)
        return encoded(content)

    monkeypatch.setattr(gallery, "_encoded", looking)
    first, other = picture(1, LARGE), picture(2)
    wanted = [
        (asked("look at it", (0, first)), 0),
        (asked("look at it and say", (0, first)), 11),
        (asked("look at it", (0, other)), 0),
        (asked("look at it", (0, first)), 10),
        (asked("look at it", (5, first)), 0),
        (asked("look at it"), 5),
    ]
    for one, cached in wanted:
        (answer,) = run(model.engine, one)
        assert (answer.text, answer.counts.cached_tokens) == (told(path, one), cached)
    assert looked == [first, other]


def test_answers_go_on_while_pictures_are_encoded(
    either: Path, looking: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One picture is encoded in a step, by turns of those who wait for theirs; the others go on meanwhile."""
    engine, answers = looking.engine, {id: Answer() for id in range(3)}
    gallery = engine._gallery
    assert gallery is not None
    encoded, steps = gallery._encoded, list[list[bytes]]()

    def watched(content: bytes) -> Features:
        steps[-1].append(content)
        return encoded(content)

    monkeypatch.setattr(gallery, "_encoded", watched)
    # Two that stand together, and one by itself.
    several = [(at, picture(number, SMALL)) for number, at in enumerate((0, 0, 4))]
    other = (2, picture(9, SMALL))
    wanted = [asked("a text", num_predict=20), asked("compare", *several), asked("look", other)]
    engine.submit(0, wanted[0])
    steps.append([])
    step(engine, answers)
    (talking,) = engine._running
    engine.submit(1, wanted[1])
    engine.submit(2, wanted[2])
    while sum(map(len, steps)) < 4:
        steps.append([])
        generated = talking.generated
        step(engine, answers)
        assert talking.generated == generated + 1
    assert max(map(len, steps)) == 1
    # Who waits for one picture does not wait for all of another's.
    assert [content for one in steps for content in one].index(other[1]) <= 1
    finish(engine, answers)
    for id, one in enumerate(wanted):
        assert answers[id].error is None and answers[id].text == told(either, one)


def test_nobody_is_lost_who_waits_for_a_picture(either: Path) -> None:
    """More go on than a batch has tokens for, so that they take turns."""
    texts = [asked(f"text {n}", num_predict=8) for n in range(6)]
    wanted = [*texts, *(asked("look", (n, picture(n, SMALL)), num_predict=8) for n in range(3))]
    with loaded(either, num_ctx=64, num_parallel=9, num_batch=4) as model:
        for answer, one in zip(run(model.engine, *wanted), wanted, strict=True):
            assert answer.error is None and answer.text == told(either, one)
        model.engine.forget()
        model.engine.check()


def test_features_are_kept_within_a_bound(model: LoadedModel) -> None:
    evaluator = model.evaluator
    gallery = Gallery.of(evaluator.backend, evaluator.model, evaluator.cache, most=2 * 5 * 64 * 4)
    assert gallery is not None
    shown = [Placed(0, 1, bytes([n]), picture(n, SMALL)) for n in range(3)]
    features = [gallery.features(one) for one in shown]
    assert features[0].rows.shape == (5, 64)
    assert all(gallery.features(shown[n]) is features[n] for n in (1, 2))
    assert gallery.features(shown[0]) is not features[0]


def test_a_conversation_goes_on_from_what_the_cache_has(path: Path, model: LoadedModel) -> None:
    turns = ["see this", " and now say more", " and here is another", " tell both"]
    images: list[tuple[int, bytes]] = [(0, picture(1, LARGE))]
    text, cached = "", []
    for index, turn in enumerate(turns):
        if index == 2:
            images.append((len(text) + 4, picture(2, LARGE)))
        text += turn
        (answer,) = run(model.engine, asked(text, *images))
        assert answer.text == told(path, asked(text, *images))
        cached.append(answer.counts.cached_tokens)
    assert cached[0] == 0 and all(before < after for before, after in pairwise(cached))


def test_more_pictures_than_there_is_room_for_take_turns(path: Path) -> None:
    """Two large ones fit; those of requests that have ended make room, and those of others wait."""
    with loaded(path, num_ctx=256, num_parallel=2, num_batch=64) as model:
        wanted = [asked(f"number {n}", (n % 3, picture(n, LARGE))) for n in range(9)]
        for one in wanted:
            (answer,) = run(model.engine, one)
            assert answer.text == told(path, one)
        for answer, one in zip(run(model.engine, *wanted), wanted, strict=True):
            assert answer.error is None and answer.text == told(path, one)


def test_pictures_that_never_fit_are_an_error_of_their_request(path: Path) -> None:
    with loaded(path, num_ctx=256, num_parallel=1) as model:
        together = [(3, picture(n, LARGE)) for n in range(3)]
        apart = [(n, picture(n, LARGE)) for n in range(3)]
        failed, good = run(model.engine, asked("compare", *together), asked("compare", *apart))
        assert isinstance(failed.error, InvalidOption)
        assert str(failed.error).startswith("pictures of 12 tiles stand together; there is room for 8:")
        assert good.text == told(path, asked("compare", *apart))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *[(name, content) for name in ("mllama", "gemma") for content in (b"", b"no picture", CUT_OFF)],
        ("qwen", picture(1, format="JPEG")[:1000]),
    ],
)
def test_what_is_no_picture_fails_its_request_alone(
    paths: dict[str, Path], name: str, content: bytes
) -> None:
    good = asked("look", (0, picture(1)))
    with loaded(paths[name], num_ctx=256, num_parallel=4, num_batch=32) as model:
        failed, answer = run(model.engine, asked("look", (2, content)), good)
    assert isinstance(failed.error, InvalidOption) and str(failed.error).startswith("invalid image: ")
    assert answer.text == told(paths[name], good)


@pytest.mark.parametrize("content", [b"", b"no picture", CUT_OFF, picture(1, (1, 201))])
def test_what_has_no_size_is_refused_where_sizes_count(paths: dict[str, Path], content: bytes) -> None:
    with loaded(paths["qwen"]) as model:
        with pytest.raises(InvalidOption, match="invalid image: "):
            model.engine.submit(1, asked("look", (2, content)))
        assert model.engine.idle


def test_pictures_count_and_their_context_does_not_shift(path: Path) -> None:
    with loaded(path, num_ctx=64) as model:
        (answer,) = run(model.engine, asked("x" * 20, (0, picture(1)), num_predict=-1, shift=True))
        assert answer.counts.reason == "length"
        assert answer.counts.prompt_tokens == 21 and answer.counts.generated_tokens == 43
        with pytest.raises(ContextLengthExceeded, match="65"):
            model.engine.submit(9, asked("x" * 64, (0, picture(1)), shift=True))


def test_models_that_do_not_see(tmp_path: Path) -> None:
    blind = write_tiny_mllama(tmp_path / "blind.gguf", sees=False)
    for path in (blind, write_tiny_llama(tmp_path / "llama.gguf")):
        with loaded(path) as model:
            with pytest.raises(MissingCapability, match="vision"):
                model.engine.submit(1, asked("look", (0, picture(1))))
            (answer,) = run(model.engine, asked("look"))
            assert answer.error is None


@pytest.mark.parametrize("places", [(5,), (-1,), (2, 1)])
def test_places_that_there_are_not(model: LoadedModel, places: tuple[int, ...]) -> None:
    with pytest.raises(InvalidOption, match="cannot stand at token"):
        model.engine.submit(1, asked("look", *((place, picture(1)) for place in places)))


def test_servers_know_how_many_tokens_a_picture_takes(looking: LoadedModel, tmp_path: Path) -> None:
    gallery = looking.engine._gallery
    tokens = picture_tokens(looking.metadata)
    assert gallery is not None and tokens is not None
    for size in (LARGE, SMALL, (70, 13), (5, 300)):
        content = picture(1, size)
        assert tokens(content) == gallery.placement(content).length
    with loaded(write_tiny_mllama(tmp_path / "blind.gguf", sees=False)) as blind:
        assert picture_tokens(blind.metadata) is None


def test_a_picture_may_end_the_prompt(either: Path, looking: LoadedModel) -> None:
    wanted = asked("look", (4, picture(1)))
    for _ in range(2):
        (answer,) = run(looking.engine, wanted)
        assert answer.text == told(either, wanted)


def test_a_picture_is_evaluated_as_a_whole(paths: dict[str, Path]) -> None:
    """Its tokens see each other, so they come in one batch, however small those are."""
    wanted = [asked("look at it", (n, picture(n))) for n in range(4)]
    with loaded(paths["gemma"], num_ctx=256, num_parallel=4, num_batch=2) as model:
        assert model.num_batch == PICTURE_TOKENS
        for answer, one in zip(run(model.engine, *wanted), wanted, strict=True):
            assert answer.text == told(paths["gemma"], one)


def test_a_picture_whose_tokens_see_no_later_ones_may_be_divided(paths: dict[str, Path]) -> None:
    wanted = [asked("look at it", (n, picture(n, (60, 80)))) for n in range(4)]
    with loaded(paths["qwen"], num_ctx=256, num_parallel=4, num_batch=7) as model:
        assert model.num_batch == 7
        (first, *_) = model.engine._pictured(wanted[0])[1]
        assert (first.count, first.columns, first.whole) == (48, 6, False)
        for answer, one in zip(run(model.engine, *wanted), wanted, strict=True):
            assert answer.text == told(paths["qwen"], one)


def test_llama_cpps_two_files_say_what_ollamas_one_does(paths: dict[str, Path], tmp_path: Path) -> None:
    text = write_tiny_qwenvl(tmp_path / "text.gguf", projector=tmp_path / "mmproj.gguf")
    wanted = [asked("look at it", (n, picture(n, (30, 80)))) for n in range(3)]
    options = LoadOptions(num_threads=1, kv_cache_type="f32", projector=str(tmp_path / "mmproj.gguf"))
    with load_model(text, options) as model:
        for answer, one in zip(run(model.engine, *wanted), wanted, strict=True):
            assert answer.text == told(paths["qwen"], one)
    with GGUFFile.open(tmp_path / "mmproj.gguf") as projector:
        two = picture_tokens(model.metadata, projector.metadata)
    with GGUFFile.open(paths["qwen"]) as file:
        one_file = picture_tokens(file.metadata)
    content = picture(1, (90, 40))
    assert one_file is not None and two is not None and one_file(content) == two(content) == 38


def test_an_image_encoder_in_a_file_of_its_own(paths: dict[str, Path], tmp_path: Path) -> None:
    """The same weights in one file and in two say the same."""
    text = write_tiny_gemma(tmp_path / "text.gguf", projector=tmp_path / "mmproj.gguf")
    wanted = [asked("look at it", (n, picture(n))) for n in range(3)]
    options = LoadOptions(num_threads=1, kv_cache_type="f32", projector=str(tmp_path / "mmproj.gguf"))
    with load_model(text, options) as model:
        for answer, one in zip(run(model.engine, *wanted), wanted, strict=True):
            assert answer.text == told(paths["gemma"], one)
        model.resize(replace(options, num_ctx=128))
        (answer,) = run(model.engine, wanted[0])
        assert answer.text == told(paths["gemma"], wanted[0])
    memory, _, _ = plan_model(text, options)
    without, _, _ = plan_model(text, replace(options, projector=None))
    assert memory.input_weights.size > without.input_weights.size
    assert memory.cpu.graph.size > without.cpu.graph.size


def _company(path: Path, seed: int, steps: int) -> None:
    """Requests come, go and are cancelled at random; those that end say what they say alone."""
    generator = random.Random(seed)
    contents = [picture(n, size) for n, size in enumerate((SMALL, LARGE, (60, 20), SMALL))]
    texts = ["a picture of", "a picture of a house", "what", "what is to be seen on these"]
    alone: dict[str, str] = {}
    with loaded(path, num_ctx=128, num_parallel=3, num_batch=16) as model:
        engine, answers = model.engine, dict[int, Answer]()
        wanted: dict[int, GenerateRequest] = {}
        for id in range(steps):
            text = generator.choice(texts)
            places = sorted(generator.randint(0, 4) for _ in range(generator.choice((0, 1, 1, 2))))
            wanted[id] = asked(
                text, *((place, generator.choice(contents)) for place in places), num_predict=6
            )
            answers[id] = Answer()
            engine.submit(id, wanted[id])
            for _ in range(generator.randint(0, 4)):
                step(engine, answers)
            if generator.random() < 0.2:
                engine.cancel(generator.randint(0, id))
        finish(engine, answers)
        engine.forget()
        engine.check()
    for id, answer in answers.items():
        assert answer.error is None
        if answer.counts.reason != "cancelled":
            key = repr((wanted[id].prompt, wanted[id].images))
            alone[key] = alone.get(key) or told(path, wanted[id])
            assert answer.text == alone[key]


def test_company_changes_nothing(either: Path) -> None:
    _company(either, 1, 25)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_much_company_changes_nothing(either: Path, seed: int) -> None:
    _company(either, seed, 120)


# -- the pure parts ---------------------------------------------------------------------------------------


def placed(begin: int, name: str, count: int = 1, columns: int = 0) -> Placed:
    return Placed(begin, count, name.encode(), b"", columns, whole=not columns)


def test_places_have_rows_and_columns_in_pictures() -> None:
    """The example of arXiv:2409.12191: what follows a picture goes on behind its longer side."""
    pictures = [placed(2, "a", 6, columns=3), placed(9, "b", 4, columns=1)]
    time = [0, 1, *[2] * 6, 5, *[6] * 4, 10, 11]
    rows = [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7, 8, 9, 10, 11]
    columns = [0, 1, 2, 3, 4, 2, 3, 4, 5, *[6] * 4, 10, 11]
    whole = coordinates(0, 15, pictures)
    assert whole.tolist() == [time, rows, columns, time]
    for begin in range(15):
        for end in range(begin, 16):
            assert (coordinates(begin, end, pictures) == whole[:, begin:end]).all()


def test_places_are_alike_where_pictures_have_no_columns() -> None:
    assert coordinates(3, 7, [placed(1, "a"), placed(4, "b", 2)]).tolist() == [[3, 4, 5, 6]] * 4


def test_a_prompt_gets_its_pictures_tokens() -> None:
    placement = Placement(9, count=2, before=(7,), after=(8,))
    images = [Image(0, b"a"), Image(2, b"b"), Image(2, b"c"), Image(3, b"a")]
    tokens, pictures = expanded([1, 2, 3], images, lambda content: placement)
    one = [7, 9, 9, 8]
    assert tokens.tolist() == [*one, 1, 2, *one, *one, 3, *one]
    assert [(picture.begin, picture.end) for picture in pictures] == [(1, 3), (7, 9), (11, 13), (16, 18)]
    assert pictures[0].digest == pictures[3].digest != pictures[1].digest


def test_pictures_without_a_token_between_are_a_group() -> None:
    one, two, three = placed(1, "a", 2), placed(3, "b"), placed(5, "c")
    assert groups([one, two, three]) == [[one, two], [three]]
    assert groups([]) == []


@pytest.mark.parametrize(
    ("left", "right", "length", "common"),
    [
        ([], [], 5, 5),
        ([placed(2, "a")], [placed(2, "a")], 5, 5),
        ([placed(2, "a")], [placed(2, "b")], 5, 2),
        ([placed(2, "a")], [], 5, 2),
        ([placed(2, "a")], [], 2, 2),
        ([placed(2, "a"), placed(4, "b")], [placed(2, "a"), placed(4, "c")], 9, 4),
        ([placed(2, "a", 4)], [placed(2, "a", 4)], 5, 2),
        ([placed(2, "a", 4)], [placed(2, "a", 4)], 6, 6),
        ([placed(3, "a")], [placed(2, "a")], 5, 2),
    ],
)
def test_what_prompts_with_pictures_have_in_common(
    left: list[Placed], right: list[Placed], length: int, common: int
) -> None:
    assert common_pictures(left, right, length) == common == common_pictures(right, left, length)
