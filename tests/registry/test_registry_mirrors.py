"""Mirrors: asked first, and left for the registry itself where they fail."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from tests.registry.images import digest_of, image
from tests.registry.rogue_registry import Reply, Request, RogueRegistry, rogue
from tests.registry.transfers import pull, push, registries

from puna.registry.registries import Registry
from puna.store.library import Library
from puna.store.name import parse_name

WEIGHTS = bytes(range(256)) * 8192
IMAGE = image(WEIGHTS)
BLOB = rf"/v2/.*/blobs/{digest_of(WEIGHTS)}"


@pytest.fixture
def origin() -> Iterator[RogueRegistry]:
    with rogue(IMAGE) as registry:
        yield registry


@pytest.fixture
def mirror() -> Iterator[RogueRegistry]:
    with rogue(IMAGE, host="127.0.0.5") as registry:
        yield registry


@pytest.fixture
def configured(origin: RogueRegistry, mirror: RogueRegistry) -> Mapping[str, Registry]:
    table = {"plain_http": True, "private": True, "mirrors": [mirror.url]}
    return registries({origin.address: table})


@pytest.fixture
def fetched(
    origin: RogueRegistry, configured: Mapping[str, Registry], tmp_path: Path
) -> Callable[[], Library]:
    """Pulls the model by its own name, and looks at what has come."""

    def run() -> Library:
        library = Library(tmp_path / "models")
        name = f"{origin.address}/me/model:1"
        pull(name, library, insecure=False, configured=configured)
        assert library.manifests.stored(parse_name(name)).content == IMAGE.manifest
        assert all(library.blobs.verify(digest) for digest in library.blobs)
        return library

    return run


def test_a_mirror_that_has_the_model_is_all_that_is_asked(
    origin: RogueRegistry, mirror: RogueRegistry, fetched: Callable[[], Library]
) -> None:
    fetched()
    assert mirror.asked("/v2/me/model/manifests/1")
    assert origin.requests == []


@pytest.mark.parametrize("status", [404, 401, 500])
def test_a_mirror_that_does_not_have_it(
    origin: RogueRegistry, mirror: RogueRegistry, fetched: Callable[[], Library], status: int
) -> None:
    mirror.answer(r"/v2/.*/manifests/.*", Reply(status))
    fetched()
    assert origin.asked(BLOB)
    assert mirror.asked(BLOB) == []


def test_what_a_mirror_does_not_finish_the_registry_does(
    origin: RogueRegistry, mirror: RogueRegistry, fetched: Callable[[], Library]
) -> None:
    def cut(request: Request) -> Reply:
        whole = mirror.honest(request)
        assert isinstance(whole.body, bytes)
        if len(whole.body) < 1000:
            return whole
        return Reply(whole.status, whole.headers, whole.body[:100_000], length=str(len(whole.body)))

    mirror.answer(BLOB, cut, Reply(404))
    fetched()
    asked = origin.asked(BLOB)
    # What the mirror has sent is not fetched again.
    assert asked and all(request.headers.get("range", "").startswith("bytes=") for request in asked)
    assert "bytes=0-" not in " ".join(request.headers["range"] for request in asked)


def test_content_of_a_mirror_is_verified(
    origin: RogueRegistry, mirror: RogueRegistry, fetched: Callable[[], Library]
) -> None:
    def spoilt(request: Request) -> Reply:
        whole = mirror.honest(request)
        assert isinstance(whole.body, bytes)
        return Reply(whole.status, whole.headers, bytes(len(whole.body)))

    mirror.answer(BLOB, spoilt)
    fetched()
    assert origin.asked(BLOB)


def test_a_push_goes_past_the_mirror(
    origin: RogueRegistry,
    mirror: RogueRegistry,
    configured: Mapping[str, Registry],
    fetched: Callable[[], Library],
) -> None:
    library = fetched()
    mirror.requests.clear()
    origin.answer(r"/v2/.*", Reply(200), method="HEAD")
    origin.answer(r"/v2/.*/manifests/1", Reply(201), method="PUT")
    push(f"{origin.address}/me/model:1", library, insecure=False, configured=configured)
    assert [request.body for request in origin.asked(method="PUT")] == [IMAGE.manifest]
    assert mirror.requests == []
