"""`puna pull` and `puna push` killed again and again: nothing is lost, and little is sent twice."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.registry import docker_registry
from tests.registry.docker_registry import DockerRegistry
from tests.registry.fault_proxy import BLOBS, UPLOADS, Fault, FaultProxy, proxying
from tests.registry.images import Image, digest_of, image
from tests.registry.transfers import pull, puna_environment

from puna.store.library import Library
from puna.store.manifests import CONFIG_TYPE, LICENSE_LAYER, MODEL_LAYER, image_manifest
from puna.store.name import parse_name
from puna.store.verify import verify_library

pytestmark = pytest.mark.timeout(600)

MIB = 1 << 20
# What one kill may cost: what each stream has read since the last line of the journal, and what lay in the
# buffers of the connections.
LOST_PER_KILL = 8 * MIB


@dataclass(frozen=True, slots=True)
class Form:
    """How long a run is: kills, bytes of the model, bytes a second of each connection."""

    kills: int
    size: int
    rate: float


PULLS = [
    pytest.param(Form(5, 24 * MIB, 3_000_000), id="short"),
    pytest.param(Form(30, 160 * MIB, 6_000_000), id="long", marks=pytest.mark.slow),
]
# Of parts of 32 MiB several must get through in a second.
PUSHES = [
    pytest.param(Form(5, 100 * MIB, 80_000_000), id="short"),
    pytest.param(Form(30, 500 * MIB, 60_000_000), id="long", marks=pytest.mark.slow),
]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    with docker_registry.anonymous(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def proxy(registry: DockerRegistry) -> Iterator[FaultProxy]:
    with proxying(registry.address) as running:
        yield running


def held(form: Form, seed: int) -> Image:
    chance = random.Random(seed)
    return image(
        b"".join(chance.randbytes(MIB) for _ in range(form.size // MIB)), ("license", chance.randbytes(MIB))
    )


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """A store with a model that must survive."""
    library = Library(tmp_path / "models")
    with library.session() as session:
        layers = [session.add(MODEL_LAYER, [b"an innocent model"]), session.add(LICENSE_LAYER, [b"text"])]
        session.publish(parse_name("innocent"), image_manifest(session.add(CONFIG_TYPE, [b"{}"]), layers))
    return library


def start(command: str, name: str, library: Library) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "puna", command, name, "--insecure"],
        env=puna_environment(library),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_at_random(
    command: str, name: str, library: Library, proxy: FaultProxy, chance: random.Random, path: str
) -> bool:
    """Runs a command and kills it some time after it began to transfer; False when it ended before."""
    before = len(proxy.about(path))
    program = start(command, name, library)
    while len(proxy.about(path)) == before and program.poll() is None:
        time.sleep(0.002)
    try:
        program.wait(chance.uniform(0, 1.0))
    except subprocess.TimeoutExpired:
        program.kill()
    _, err = program.communicate()
    assert program.returncode in (0, -9), err
    return program.returncode == -9


def check_store(library: Library) -> None:
    verification = verify_library(library, lambda _: None)
    assert verification.damage == ()
    assert "innocent:latest" in {str(model.name) for model in library.listing().models}


@pytest.mark.parametrize("form", PULLS)
def test_a_pull_that_is_killed_goes_on(
    registry: DockerRegistry, proxy: FaultProxy, library: Library, form: Form
) -> None:
    wanted = held(form, 1)
    registry.hold(wanted, "t/m", "1")
    name, chance = f"{proxy.address}/t/m:1", random.Random(1)
    proxy.set(Fault(BLOBS, rate=form.rate))
    kills = 0
    for _ in range(form.kills):
        kills += kill_at_random("pull", name, library, proxy, chance, BLOBS)
        check_store(library)
    proxy.set()
    last = start("pull", name, library)
    _, err = last.communicate()
    assert last.returncode == 0, err
    assert kills >= form.kills // 2  # else the model was too small for them
    check_same(library, parse_name(name), wanted)
    assert proxy.served() <= sum(map(len, wanted.blobs.values())) + kills * LOST_PER_KILL
    library.prune(0)
    check_same(library, parse_name(name), wanted)
    assert not any("partial" in path.name for path in library.blobs.folder.iterdir())


@pytest.mark.parametrize("form", PUSHES)
@pytest.mark.parametrize("whole", [True, False], ids=["whole parts", "cut parts"])
def test_a_push_that_is_killed_goes_on(
    registry: DockerRegistry, proxy: FaultProxy, library: Library, tmp_path: Path, form: Form, whole: bool
) -> None:
    wanted = held(form, 2)
    source = Library(tmp_path / "source")
    name, chance = f"{proxy.address}/t/m:1", random.Random(2)
    store(source, name, wanted)
    before = manifests(source)
    # This registry gives up an upload of which a part was cut, so let it have whole parts only.
    proxy.set(Fault(UPLOADS, "PATCH|PUT", rate=form.rate, whole_uploads=whole))
    kills = 0
    for _ in range(form.kills):
        kills += kill_at_random("push", name, source, proxy, chance, UPLOADS)
        assert verify_library(source, lambda _: None).damage == ()
    proxy.set()
    last = start("push", name, source)
    _, err = last.communicate()
    assert last.returncode == 0, err
    assert kills >= form.kills // 2
    # A session that the registry still has is gone on with; only where it has none is one begun.
    sessions = proxy.about(UPLOADS, "GET")
    resumed, given_up = ([x for x in sessions if x.status == status] for status in (204, 404))
    assert len(resumed) + len(given_up) == len(sessions)
    begun = {x.path for x in proxy.about(UPLOADS, "PATCH")}
    assert len(begun) <= len(wanted.blobs) + len(given_up)
    assert resumed or not whole
    assert registry.manifest("t/m", "1") == wanted.manifest
    for digest, content in wanted.blobs.items():
        assert registry.blob_file(digest).read_bytes() == content
    assert manifests(source) == before
    # What was pushed can be pulled into a second store.
    pull(name, library)
    check_same(library, parse_name(name), wanted)


def store(library: Library, name: str, wanted: Image) -> None:
    """Put an image into a store, its manifest byte for byte."""
    with library.session() as session:
        for content in wanted.blobs.values():
            assert session.add(MODEL_LAYER, [content]).digest == digest_of(content)
        session.publish(parse_name(name), wanted.manifest)


def manifests(library: Library) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in library.manifests.folder.rglob("*") if path.is_file()}


def check_same(library: Library, name: object, wanted: Image) -> None:
    """The store has the model, byte for byte."""
    stored = library.manifests.stored(parse_name(str(name)))
    assert stored.content == wanted.manifest
    for digest, content in wanted.blobs.items():
        assert (library.blobs.folder / digest.replace(":", "-")).read_bytes() == content
