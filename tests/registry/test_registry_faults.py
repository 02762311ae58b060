"""Pulls and pushes through a proxy that does harm: what can be had arrives right, nothing wrong is kept."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.registry import docker_registry
from tests.registry.docker_registry import DockerRegistry
from tests.registry.fault_proxy import BLOBS, MANIFESTS, UPLOADS, Fault, FaultProxy, proxying
from tests.registry.images import Image, digest_of, image
from tests.registry.rogue_registry import Reply, rogue
from tests.registry.transfers import HASTY, QUICK, access, ignore, pull, puna_environment, push, registries

from puna.errors import DigestMismatch, FetchError, OutOfSpace
from puna.progress import Progress, Report
from puna.registry.access import Access
from puna.registry.download import download_blob
from puna.registry.network import Network
from puna.registry.pull import pull_model
from puna.registry.push import push_model
from puna.registry.registries import Registry, registry_for
from puna.store.blobs import BlobStore
from puna.store.digest import Digest
from puna.store.library import Library
from puna.store.manifests import CONFIG_TYPE, MODEL_LAYER, image_manifest
from puna.store.name import ModelName, parse_name
from puna.store.verify import verify_library

pytestmark = pytest.mark.timeout(180)

MIB = 1 << 20
WEIGHTS = random.Random(5).randbytes(6 * MIB + 12345)
WEIGHTS_DIGEST = digest_of(WEIGHTS)
SMALL = b"a small layer"
IMAGE = image(WEIGHTS, ("license", SMALL))
TOTAL = sum(map(len, IMAGE.blobs.values()))
WEIGHTS_PATH = f"/v2/.*/blobs/{WEIGHTS_DIGEST}"


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry.anonymous(tmp_path_factory.mktemp("upstream") / "registry") as registry:
        registry.hold(IMAGE, "t/m", "1")
        yield registry


@pytest.fixture
def proxy(upstream: DockerRegistry) -> Iterator[FaultProxy]:
    with proxying(upstream.address) as running:
        yield running


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "models")


class Watch:
    """Collects progress, and complains when it goes backwards: for a blob, or for all of them together."""

    def __init__(self) -> None:
        self.told: list[Progress] = []
        self.done: dict[str, int] = defaultdict(int)
        self.totals: dict[str, int] = {}

    def __call__(self, progress: Progress) -> None:
        self.told.append(progress)
        if not progress.digest:
            return
        assert self.done[progress.digest] <= progress.completed <= progress.total, progress
        assert self.totals.setdefault(progress.digest, progress.total) == progress.total
        self.done[progress.digest] = progress.completed

    def check_end(self, held: Image) -> None:
        """Each blob came to its end, and what happened was told in Ollama's words."""
        assert self.totals == {digest: len(content) for digest, content in held.blobs.items()}
        assert self.done == self.totals
        statuses = [progress.status for progress in self.told]
        assert statuses[0] == "pulling manifest"
        assert [status for status in statuses if not status.startswith("pulling")][-3:] == [
            "verifying sha256 digest",
            "writing manifest",
            "success",
        ]


def fetch(proxy: FaultProxy, library: Library) -> Watch:
    """A pull that must succeed: the store then has the image, byte for byte, and nothing else."""
    watch = Watch()
    pull(f"{proxy.address}/t/m:1", library, report=watch)
    watch.check_end(IMAGE)
    check_whole(proxy, library)
    return watch


def check_whole(proxy: FaultProxy, library: Library) -> None:
    path = library.manifests.existing(parse_name(f"{proxy.address}/t/m:1"))
    assert path.read_bytes() == IMAGE.manifest
    blobs = {digest.replace(":", "-"): content for digest, content in IMAGE.blobs.items()}
    assert {path.name: path.read_bytes() for path in library.blobs.folder.iterdir()} == blobs


def refused(proxy: FaultProxy, library: Library, kind: type[Exception] = FetchError) -> str:
    """A pull that must fail with one line; no model and no wrong blob is there afterwards."""
    with pytest.raises(kind) as caught:
        pull(f"{proxy.address}/t/m:1", library, report=Watch())
    message = str(caught.value)
    assert message and "\n" not in message and "Errno" not in message
    assert library.listing().models == []
    assert verify_library(library, lambda _: None).damage == ()
    assert not library.blobs.path(Digest.parse(WEIGHTS_DIGEST)).exists()
    return message


def test_without_faults_each_byte_is_sent_once(proxy: FaultProxy, library: Library) -> None:
    fetch(proxy, library)
    assert proxy.served() == TOTAL
    proxy.forget()
    fetch(proxy, library)  # all of it is there already
    assert proxy.served() == 0


@pytest.mark.parametrize("at", [0, 1_000_000, 3 * MIB, len(WEIGHTS) - 1])
def test_a_byte_that_was_changed_once_is_fetched_again(proxy: FaultProxy, library: Library, at: int) -> None:
    proxy.set(Fault(BLOBS, corrupt_at=at, times=1))
    fetch(proxy, library)


def test_a_byte_that_is_always_changed_is_one_error(proxy: FaultProxy, library: Library) -> None:
    proxy.set(Fault(WEIGHTS_PATH, corrupt_at=3 * MIB))
    assert "digest" in refused(proxy, library, DigestMismatch)
    assert list(library.root.rglob("*partial*")) == []
    proxy.set()
    fetch(proxy, library)


def test_every_connection_is_cut(proxy: FaultProxy, library: Library) -> None:
    proxy.set(Fault(WEIGHTS_PATH, cut_after=300_000))
    fetch(proxy, library)
    # What came before the cut was kept.
    assert proxy.served(WEIGHTS_DIGEST) < 1.2 * len(WEIGHTS)


def test_no_byte_ever_comes(proxy: FaultProxy, library: Library) -> None:
    proxy.set(Fault(WEIGHTS_PATH, cut_after=0))
    refused(proxy, library)
    assert len(proxy.about(WEIGHTS_PATH)) < 100


def test_what_came_before_a_failure_is_kept_for_the_next_try(proxy: FaultProxy, library: Library) -> None:
    half = len(WEIGHTS) // 2
    proxy.set(Fault(WEIGHTS_PATH, cut_after=half // 8, times=8), Fault(WEIGHTS_PATH, cut_after=0))
    refused(proxy, library)
    had = proxy.served(WEIGHTS_DIGEST)
    proxy.forget()
    proxy.set()
    fetch(proxy, library)
    assert proxy.served(WEIGHTS_DIGEST) <= len(WEIGHTS) - had + MIB


def test_a_slow_registry_is_waited_for(proxy: FaultProxy, library: Library) -> None:
    proxy.set(Fault(BLOBS, rate=2_000_000))
    watch = fetch(proxy, library)
    assert len([progress for progress in watch.told if progress.digest == WEIGHTS_DIGEST]) > 5


def test_a_silence_is_noticed_and_the_rest_fetched(proxy: FaultProxy, library: Library) -> None:
    proxy.set(Fault(WEIGHTS_PATH, hang_after=400_000, times=3))
    fetch(proxy, library)
    assert proxy.served(WEIGHTS_DIGEST) < 1.3 * len(WEIGHTS)


def test_silence_for_ever_is_an_error(proxy: FaultProxy, library: Library) -> None:
    proxy.set(Fault(WEIGHTS_PATH, hang_after=0))
    refused(proxy, library)


@pytest.mark.parametrize("after", ["", "0", "1", "Fri, 31 Dec 1999 23:59:59 GMT", "-1", "x" * 1000])
def test_a_registry_that_is_busy_is_asked_again(proxy: FaultProxy, library: Library, after: str) -> None:
    headers = (("Retry-After", after),) if after else ()
    proxy.set(Fault(BLOBS, status=503, headers=headers, times=3))
    fetch(proxy, library)
    assert proxy.served() == TOTAL


def test_a_registry_that_is_busy_is_asked_again_for_the_manifest(proxy: FaultProxy, library: Library) -> None:
    proxy.set(Fault(MANIFESTS, status=503, headers=(("Retry-After", "0"),), times=2))
    fetch(proxy, library)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_a_registry_that_is_always_busy(proxy: FaultProxy, library: Library, status: int) -> None:
    proxy.set(Fault(WEIGHTS_PATH, status=status, headers=(("Retry-After", "0"),)))
    refused(proxy, library)
    assert len(proxy.about(WEIGHTS_PATH)) < 100


def test_a_registry_that_sends_whole_blobs_only(proxy: FaultProxy, library: Library) -> None:
    proxy.set(Fault(BLOBS, ignore_range=True))
    fetch(proxy, library)
    # One that answers the parts asked for at once with everything is told so once each.
    assert proxy.served(WEIGHTS_DIGEST) < 2.5 * len(WEIGHTS)


def test_whole_blobs_only_after_a_part_has_come(proxy: FaultProxy, library: Library) -> None:
    proxy.set(Fault(WEIGHTS_PATH, cut_after=500_000, times=4), Fault(WEIGHTS_PATH, cut_after=0))
    refused(proxy, library)
    proxy.set(Fault(BLOBS, ignore_range=True))
    fetch(proxy, library)


def test_blobs_may_be_at_another_port(upstream: DockerRegistry, proxy: FaultProxy, library: Library) -> None:
    with proxying(upstream.address) as storage:
        redirects = [
            Fault(path, status=307, headers=(("Location", f"http://{storage.address}{path}"),))
            for path in (f"/v2/t/m/blobs/{digest}" for digest in IMAGE.blobs)
        ]
        proxy.set(*redirects)
        fetch(proxy, library)
        assert (proxy.served(), storage.served()) == (0, TOTAL)


@pytest.mark.parametrize("programs", [False, True], ids=["threads", "programs"])
def test_two_pulls_of_one_blob_share_it(
    proxy: FaultProxy, library: Library, tmp_path: Path, programs: bool
) -> None:
    proxy.set(Fault(BLOBS, rate=3_000_000))
    if programs:
        children = [start_pull(proxy, library) for _ in range(3)]
        for child in children:
            _, err = child.communicate()
            assert child.returncode == 0, err
    else:
        watches = [Watch() for _ in range(3)]
        threads = [
            threading.Thread(target=pull, args=(f"{proxy.address}/t/m:1", library), kwargs={"report": watch})
            for watch in watches
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for watch in watches:
            watch.check_end(IMAGE)
    check_whole(proxy, library)
    assert proxy.served(WEIGHTS_DIGEST) < 1.1 * len(WEIGHTS)


def test_the_one_who_waits_goes_on_where_the_worker_was_killed(proxy: FaultProxy, library: Library) -> None:
    proxy.set(Fault(BLOBS, rate=500_000))
    worker, waiting = start_pull(proxy, library), start_pull(proxy, library)
    wait_until(lambda: proxy.served(WEIGHTS_DIGEST) > MIB)
    worker.kill()
    worker.communicate()
    proxy.set()
    _, err = waiting.communicate()
    assert waiting.returncode == 0, err
    check_whole(proxy, library)


def test_a_damaged_blob_is_found_and_fetched_again(proxy: FaultProxy, library: Library) -> None:
    fetch(proxy, library)
    path = library.blobs.path(Digest.parse(WEIGHTS_DIGEST))
    with path.open("r+b") as file:
        file.seek(MIB)
        file.write(b"damage")
    proxy.forget()
    fetch(proxy, library)
    assert proxy.served() == len(WEIGHTS)


def test_a_blob_that_another_brings_meanwhile(proxy: FaultProxy, library: Library) -> None:
    proxy.set(Fault(WEIGHTS_PATH, rate=3_000_000))

    def report(progress: Progress) -> None:
        if progress.digest == WEIGHTS_DIGEST and 0 < progress.completed < progress.total:
            with library.session() as session:
                session.add(MODEL_LAYER, [WEIGHTS])

    pull(f"{proxy.address}/t/m:1", library, report=report)
    check_whole(proxy, library)
    assert not [*library.blobs.remains()]


def test_a_blob_that_another_finishes_between_look_and_lock(library: Library) -> None:
    digest = Digest.parse(WEIGHTS_DIGEST)

    class FinishedMeanwhile(BlobStore):
        """A store in which another program finishes the blob just after it has been looked for in vain."""

        def size(self, digest: Digest) -> int | None:
            found = super().size(digest)
            if found is None:
                with library.session() as session:
                    session.add(MODEL_LAYER, [WEIGHTS])
            return found

    blobs = FinishedMeanwhile(library.blobs.folder, library.blobs.records)
    with library.session() as session:
        fetched = download_blob(digest, len(WEIGHTS), [], blobs, session, lambda _: None, QUICK, HASTY)
    assert not fetched
    assert not [*blobs.remains()]


def test_a_mirror_with_other_content_does_no_harm(upstream: DockerRegistry, library: Library) -> None:
    with proxying(upstream.address) as proxy, proxying(upstream.address) as mirror:
        mirror.set(Fault(WEIGHTS_PATH, corrupt_at=1000))
        tables: dict[str, dict[str, Any]] = {
            proxy.address: {"mirrors": [f"http://{mirror.address}"], "plain_http": True, "private": True},
            mirror.address: {"plain_http": True},
        }
        pull(f"{proxy.address}/t/m:1", library, insecure=False, configured=registries(tables))
        assert mirror.served(WEIGHTS_DIGEST) >= len(WEIGHTS)
        check_whole(proxy, library)


@pytest.mark.parametrize(
    "damage", ["journal", "content", "both cut", "longer", "a folder's worth of nonsense"]
)
def test_remains_that_were_damaged_do_no_harm(proxy: FaultProxy, library: Library, damage: str) -> None:
    proxy.set(Fault(WEIGHTS_PATH, cut_after=500_000, times=6), Fault(WEIGHTS_PATH, cut_after=0))
    refused(proxy, library)
    partial = library.blobs.partial_path(Digest.parse(WEIGHTS_DIGEST))
    journal = partial.with_name(partial.name + ".journal")
    assert partial.exists() and journal.exists()
    match damage:
        case "journal":
            journal.write_bytes(journal.read_bytes().replace(b" ", b"x"))
        case "content":
            partial.write_bytes(os.urandom(partial.stat().st_size))
        case "both cut":
            os.truncate(partial, 1000)
            os.truncate(journal, journal.stat().st_size - 3)
        case "longer":
            with partial.open("ab") as file:
                file.write(bytes(8 * MIB))
        case _:
            journal.write_bytes(os.urandom(100_000))
    proxy.set()
    fetch(proxy, library)


def start_pull(proxy: FaultProxy, library: Library) -> "subprocess.Popen[str]":
    """`puna pull` in a program of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "puna", "pull", f"{proxy.address}/t/m:1", "--insecure"],
        env=puna_environment(library),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ctrl_c_ends_a_pull_and_the_next_one_goes_on(proxy: FaultProxy, library: Library) -> None:
    proxy.set(Fault(BLOBS, rate=500_000))
    program = start_pull(proxy, library)
    wait_until(lambda: proxy.served(WEIGHTS_DIGEST) > 2 * MIB)
    program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=20)
    assert program.returncode == 130
    assert "Traceback" not in err and "Error" not in err
    assert library.listing().models == []
    had = proxy.served(WEIGHTS_DIGEST)
    proxy.forget()
    proxy.set()
    fetch(proxy, library)
    assert proxy.served(WEIGHTS_DIGEST) < len(WEIGHTS) - had + 2 * MIB


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no leave to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_too_small_is_known_before(proxy: FaultProxy, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(12 * MIB))
    message = refused(proxy, Library(small_disk / "models"), OutOfSpace)
    assert "space" in message or "room" in message
    assert proxy.served(WEIGHTS_DIGEST) == 0


def test_a_disk_that_is_full_already(proxy: FaultProxy, small_disk: Path) -> None:
    with (small_disk / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    message = refused(proxy, Library(small_disk / "models"), OutOfSpace)
    assert "space" in message
    assert os.listdir(small_disk) == ["ballast"]


def test_a_disk_that_fills_up_meanwhile(proxy: FaultProxy, small_disk: Path) -> None:
    proxy.set(Fault(BLOBS, rate=1_500_000))
    library = Library(small_disk / "models")
    ballast = small_disk / "ballast"

    def fill() -> None:
        wait_until(lambda: proxy.served(WEIGHTS_DIGEST) > MIB)
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        message = refused(proxy, library, OutOfSpace)
    finally:
        thread.join()
    assert "space" in message
    ballast.unlink()
    proxy.set()
    fetch(proxy, library)


@pytest.mark.parametrize("way", [pull_model, push_model])
def test_a_registry_that_cannot_be_reached_is_told_soon(
    library: Library, way: Callable[[ModelName, Registry, Library, Report, Access], None]
) -> None:
    looked_up = []

    def resolve(host: str, port: int) -> list[str]:
        looked_up.append(host)
        raise OSError("no network")

    name = parse_name("registry.example.com/t/m:1")
    with library.session() as session:
        config = session.add(CONFIG_TYPE, [b"{}"])
        session.publish(name, image_manifest(config, [session.add(MODEL_LAYER, [SMALL])]))
    out = replace(access(), network=Network(resolve))
    with pytest.raises(FetchError, match="its name does not resolve"):
        way(name, registry_for(name.host, {}), library, ignore, out)
    assert len(looked_up) == HASTY.contacts < HASTY.tries


# Pushing.


@pytest.fixture
def own(tmp_path: Path, proxy: FaultProxy) -> Library:
    """A store with a model to push, of contents of its own."""
    library = Library(tmp_path / "own")
    pull(f"{proxy.address}/t/m:1", library)
    return library


@pytest.fixture
def target(tmp_path: Path) -> Iterator[DockerRegistry]:
    with docker_registry.anonymous(tmp_path / "target") as registry:
        yield registry


def send(proxy: FaultProxy, upstream: DockerRegistry, library: Library) -> Watch:
    """A push that must succeed: the registry then has the manifest and the blobs, byte for byte."""
    name = f"{proxy.address}/new/m:2"
    library.copy(next(model.name for model in library.listing().models), parse_name(name))
    watch = Watch()
    push(name, library, report=watch)
    assert watch.done == {digest: len(content) for digest, content in IMAGE.blobs.items()}
    assert upstream.manifest("new/m", "2") == IMAGE.manifest
    for digest, content in IMAGE.blobs.items():
        assert upstream.blob_file(digest).read_bytes() == content
    return watch


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [Fault(UPLOADS, "PATCH|PUT", cut_upload_after=400_000, times=3)],
        [Fault(UPLOADS, "PATCH|PUT", status=503, headers=(("Retry-After", "0"),), times=3)],
        [Fault(UPLOADS, "PATCH|PUT", status=502, times=1)],
        [Fault(UPLOADS, "POST", status=503, times=2)],
        [Fault(UPLOADS, "PATCH|PUT", rate=5_000_000)],
        [Fault(BLOBS, "HEAD", status=503, times=2)],
        [Fault(MANIFESTS, "PUT", status=503, times=2)],
    ],
    ids=["none", "cut", "503", "502", "503 at the start", "slow", "503 at the look", "503 at the end"],
)
def test_a_push_through_faults(target: DockerRegistry, own: Library, faults: list[Fault]) -> None:
    with proxying(target.address, *faults) as proxy:
        send(proxy, target, own)
        proxy.forget()
        proxy.set()
        send(proxy, target, own)
        assert proxy.uploaded() == 0


def test_a_push_that_cannot_be_done_is_one_error(target: DockerRegistry, own: Library) -> None:
    with proxying(target.address, Fault(UPLOADS, "PATCH|PUT", cut_upload_after=1000)) as proxy:
        with pytest.raises(FetchError) as caught:
            send(proxy, target, own)
        assert "\n" not in str(caught.value)
        proxy.set()
        send(proxy, target, own)


@pytest.mark.timeout(30)
def test_a_push_that_is_always_refused_at_its_end_is_given_up(target: DockerRegistry, own: Library) -> None:
    faults = [Fault(UPLOADS, "PUT", status=500), Fault(UPLOADS, "GET", status=404)]
    with proxying(target.address, *faults) as proxy:
        with pytest.raises(FetchError, match="max retries exceeded"):
            send(proxy, target, own)
        assert proxy.uploaded() == HASTY.tries * len(WEIGHTS)


def test_these_parts_are_small() -> None:
    """So that a blob of a few MiB is fetched in several parts."""
    assert QUICK.part < len(WEIGHTS) / 4
    assert shutil.which("docker-registry")


def test_a_blob_of_which_nothing_comes_leaves_nothing(tmp_path: Path) -> None:
    with rogue(image(bytes(100_000))) as registry:
        registry.answer(r"/v2/.*/blobs/.*", Reply(404))
        with pytest.raises(FetchError, match=r"lacks the blob sha256:[0-9a-f]{64} that the model needs$"):
            pull(f"{registry.address}/t/m:1", Library(tmp_path / "models"))
    assert not (tmp_path / "models").exists()
