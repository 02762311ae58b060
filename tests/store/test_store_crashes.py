"""A program killed at any system call that changes the disk loses nothing, and may simply be run again."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.killing import KillPoint, kill_points, killed
from tests.registry.conftest import tiny_gguf
from tests.registry.images import image
from tests.registry.rogue_registry import rogue
from tests.registry.transfers import QUICK, pull

from puna.create.local import local_request
from puna.errors import ModelNotFound
from puna.modelfile.parser import parse
from puna.progress import Progress
from puna.services.creation import create as make
from puna.store.library import Library, Session
from puna.store.manifests import CONFIG_TYPE, LICENSE_LAYER, MODEL_LAYER, image_manifest
from puna.store.name import parse_name
from puna.store.verify import verify_library

SHORT_FORM = 6
SHARED = b"a license that all share" * 100
SMALL_PARTS = replace(QUICK, streams=3, part=64 << 10, largest_part=64 << 10, record=16 << 10)
GGUF = tiny_gguf()
OLD, NEW = b"the weights of old" * 5000, b"the weights of new" * 5000


@dataclass(frozen=True, slots=True)
class Operation:
    """Something done to a store.

    Attributes:
        run: does it; it may be done again.
        becomes: what each model it changes is afterwards: its weights, None where it is no model any more.
    """

    run: Callable[[Library], object]
    becomes: dict[str, bytes | None]


def store_model(session: Session, name: str, weights: bytes) -> None:
    layers = [session.add(MODEL_LAYER, [weights[:1000], weights[1000:]])]
    layers.append(session.add(LICENSE_LAYER, [SHARED]))
    config = session.add(CONFIG_TYPE, [json.dumps({"model_format": "gguf"}).encode()])
    session.publish(parse_name(name), image_manifest(config, layers))


def create(name: str, weights: bytes) -> Callable[[Library], None]:
    def run(library: Library) -> None:
        with library.session() as session:
            store_model(session, name, weights)

    return run


def adopt(library: Library) -> None:
    source = library.root.parent / "source.gguf"
    source.write_bytes(NEW)
    with library.session() as session:
        layer = session.adopt(MODEL_LAYER, source)
        config = session.add(CONFIG_TYPE, [b"{}"])
        session.publish(parse_name("adopted"), image_manifest(config, [layer]))


def create_from_modelfile(library: Library) -> None:
    folder = library.root.parent / "source"
    folder.mkdir(exist_ok=True)
    (folder / "m.gguf").write_bytes(GGUF)
    modelfile = parse("FROM m.gguf\nSYSTEM Be brief.\nPARAMETER temperature 0\nMESSAGE user Hi\n")
    with local_request(modelfile, parse_name("made"), folder, library, ignore) as request:
        make(request, library, ignore)


def delete(library: Library) -> None:
    try:
        library.delete(parse_name("first"))
    except ModelNotFound:
        assert library.manifests.find(parse_name("first")) is None


OPERATIONS = {
    "create": Operation(create("new", NEW), {"new": NEW}),
    "create over another": Operation(create("first", NEW), {"first": NEW}),
    "create from a file": Operation(adopt, {"adopted": NEW}),
    "create from a Modelfile": Operation(create_from_modelfile, {"made": GGUF}),
    "copy": Operation(lambda store: store.copy(parse_name("first"), parse_name("x/y:z")), {"x/y:z": OLD}),
    "copy over another": Operation(
        lambda store: store.copy(parse_name("first"), parse_name("second")), {"second": OLD}
    ),
    "rm": Operation(delete, {"first": None}),
    "prune": Operation(lambda store: store.prune(0), {}),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two models, an unused blob and what Ollama and a killed program have left."""
    library = Library(tmp_path_factory.mktemp("prepared") / "models", keep_unused=True)
    with library.session() as session:
        store_model(session, "gone", b"the weights of gone")
        store_model(session, "first", OLD)
        store_model(session, "second", b"the weights of second")
    library.delete(parse_name("gone"))
    (library.blobs.folder / f"sha256-{hashlib.sha256(b'unused').hexdigest()}").write_bytes(b"unused")
    (library.blobs.folder / f"sha256-{'0' * 64}-partial").write_bytes(b"half")
    (library.blobs.folder / "sha256-0123456789abcdef.tmp").write_bytes(b"half")
    return library.root


@pytest.fixture
def fresh(prepared: Path, tmp_path: Path) -> Callable[[], Library]:
    """Gives a new copy of the prepared store each time."""

    def copy() -> Library:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        (tmp_path / "copy").mkdir()
        return Library(Path(shutil.copytree(prepared, tmp_path / "copy" / "models")))

    return copy


def models(root: Path) -> dict[str, bytes]:
    """The weights of every model, read without our own code; each blob is what its name says."""
    found = {}
    for path in sorted((root / "manifests").glob("*/*/*/*")):
        document = json.loads(path.read_bytes())
        for layer in (*document["layers"], document["config"]):
            content = (root / "blobs" / layer["digest"].replace(":", "-")).read_bytes()
            assert "sha256:" + hashlib.sha256(content).hexdigest() == layer["digest"]
            assert len(content) == layer["size"]
        weights = document["layers"][0]["digest"].replace(":", "-")
        found[str(parse_name("/".join(path.parts[-4:-1]) + ":" + path.name))] = (
            root / "blobs" / weights
        ).read_bytes()
    return found


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def needed_files(root: Path) -> set[str]:
    """The manifests there are and the blobs that they name, and notes about those."""
    found = set()
    for path in (root / "manifests").glob("*/*/*/*"):
        found.add(str(path.relative_to(root)))
        document = json.loads(path.read_bytes())
        for layer in (*document["layers"], document["config"]):
            hexadecimal = layer["digest"].removeprefix("sha256:")
            found |= {f"blobs/sha256-{hexadecimal}", f".puna/verified/{hexadecimal}"}
    return found


def check_after_kill(library: Library, operation: Operation, before: dict[str, bytes]) -> None:
    verification = verify_library(library, ignore)
    assert verification.damage == ()
    after = models(library.root)
    changed = {str(parse_name(name)): weights for name, weights in operation.becomes.items()}
    for name in {*before, *after}:
        allowed = [before.get(name)] + ([changed[name]] if name in changed else [])
        assert after.get(name) in allowed, name
    check_prune(library, after)
    operation.run(library)
    done = {name: weights for name, weights in {**before, **changed}.items() if weights is not None}
    assert models(library.root) == done
    check_prune(library, done)


def check_prune(library: Library, expected: dict[str, bytes]) -> None:
    """Pruning a copy of the store keeps the models, and nothing else."""
    copy = library.root.with_name("pruned")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(library.root, copy)
    Library(copy).prune(0)
    assert models(copy) == expected
    assert files(copy) <= needed_files(copy)


def ignore(_: Progress) -> None:
    pass


def points(request: pytest.FixtureRequest, found: list[KillPoint]) -> Iterator[KillPoint]:
    """All of them in the long form, else a few, the first and the last among them."""
    if request.config.getoption("--slow") or len(found) <= SHORT_FORM:
        yield from found
        return
    chosen = random.Random(len(found)).sample(range(1, len(found) - 1), SHORT_FORM - 2)
    yield from (found[index] for index in (0, *sorted(chosen), len(found) - 1))


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_killed_operation_loses_nothing_and_may_be_repeated(
    fresh: Callable[[], Library], request: pytest.FixtureRequest, name: str
) -> None:
    operation = OPERATIONS[name]
    library = fresh()
    before = models(library.root)
    found = kill_points(lambda: operation.run(library))
    assert len(found) > 5
    for point in points(request, found):
        library = fresh()
        assert killed(lambda: operation.run(library), point), point  # noqa: B023 - called at once
        try:
            check_after_kill(library, operation, before)
        except AssertionError as error:
            error.add_note(f"after a kill at {point}")
            raise


@pytest.mark.parametrize("earlier", [False, True], ids=["a new model", "a newer version"])
def test_a_killed_pull_loses_nothing_and_may_be_repeated(
    fresh: Callable[[], Library], request: pytest.FixtureRequest, earlier: bool
) -> None:
    weights = random.Random(3).randbytes(400_000)
    with rogue(image(weights, ("license", SHARED))) as registry:
        name = f"{registry.address}/library/pulled:1"
        operation = Operation(lambda library: pull(name, library, transfer=SMALL_PARTS), {name: weights})

        def prepared() -> Library:
            library = fresh()
            if earlier:
                library.copy(parse_name("first"), parse_name(name))
            return library

        library = prepared()
        before = models(library.root)
        found = kill_points(lambda: operation.run(library))
        assert len(found) > 20
        kills = 0
        for point in points(request, found):
            library = prepared()
            # Threads share the work differently each time: some points may not come.
            kills += killed(lambda: operation.run(library), point)  # noqa: B023 - called at once
            try:
                check_after_kill(library, operation, before)
            except AssertionError as error:
                error.add_note(f"after a kill at {point}")
                raise
        assert kills >= SHORT_FORM // 2


@pytest.mark.slow
def test_the_long_form_kills_at_every_change(fresh: Callable[[], Library]) -> None:
    """The points are those where the disk changes: each leaves a state that the one before did not."""
    operation = OPERATIONS["create"]
    library = fresh()
    found = kill_points(lambda: operation.run(library))
    assert {"openat", "write", "rename", "unlink", "fsync"} <= {point.name for point in found}
    states = set()
    for point in found:
        library = fresh()
        assert killed(lambda: operation.run(library), point)  # noqa: B023 - called at once
        states.add(len(files(library.root)))
    assert len(states) > 3
