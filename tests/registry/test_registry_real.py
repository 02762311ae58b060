"""Push, and pull into a second store, with real registries of all kinds."""

import base64
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.registry import docker_registry
from tests.registry.docker_registry import DockerRegistry
from tests.registry.fault_proxy import BLOBS, MANIFESTS, UPLOADS, FaultProxy, proxying
from tests.registry.images import digest_of, image
from tests.registry.token_issuer import Account, Grant, TokenIssuer, serving
from tests.registry.transfers import pull, puna_environment, push

from puna.errors import ModelNotFound, PunaError
from puna.store.library import Library
from puna.store.manifests import MODEL_LAYER
from puna.store.name import parse_name

pytestmark = pytest.mark.timeout(120)

WEIGHTS = random.Random(9).randbytes(3_000_000)
IMAGE = image(WEIGHTS, ("license", b"do as you like"), ("params", b'{"temperature":0}'))
TOTAL = sum(map(len, IMAGE.blobs.values()))
ALL = frozenset({"pull", "push"})
USER, PASSWORD = "ann", "pass:word with ünïcode"


@dataclass(frozen=True, slots=True)
class Place:
    """A registry behind a proxy that counts; `auths` is what Docker's configuration has for it."""

    proxy: FaultProxy
    auths: dict[str, dict[str, str]]
    issuer: TokenIssuer | None = None

    @property
    def address(self) -> str:
        return self.proxy.address


def basic_auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture(params=["anonymous", "basic", "bearer", "bearer by identity token"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    folder = tmp_path / "registry"
    if request.param == "anonymous":
        with docker_registry.anonymous(folder) as registry, proxying(registry.address) as proxy:
            yield Place(proxy, {})
    elif request.param == "basic":
        with docker_registry.basic(folder, {USER: PASSWORD}) as registry, proxying(registry.address) as proxy:
            yield Place(proxy, {proxy.address: basic_auth(USER, PASSWORD)})
    else:
        accounts = [Account(USER, PASSWORD, identity_token="from-a-log-in")]
        with (
            serving(TokenIssuer(accounts, [Grant(USER, ".*", ALL)])) as issuer,
            docker_registry.bearer(folder, issuer) as registry,
            proxying(registry.address) as proxy,
        ):
            entry = basic_auth(USER, PASSWORD)
            if "identity" in request.param:
                entry = {**basic_auth(USER, ""), "identitytoken": "from-a-log-in"}
            yield Place(proxy, {proxy.address: entry}, issuer)


@pytest.fixture
def source(tmp_path: Path) -> Library:
    library = Library(tmp_path / "source")
    (tmp_path / "source").mkdir()
    return library


def store(library: Library, name: str) -> None:
    with library.session() as session:
        for content in IMAGE.blobs.values():
            assert session.add(MODEL_LAYER, [content]).digest == digest_of(content)
        session.publish(parse_name(name), IMAGE.manifest)


def check_same(library: Library, name: str) -> None:
    assert library.manifests.stored(parse_name(name)).content == IMAGE.manifest
    blobs = {path.name: path.read_bytes() for path in library.blobs.folder.iterdir()}
    assert blobs == {digest.replace(":", "-"): content for digest, content in IMAGE.blobs.items()}


def puna(
    place: Place, library: Library, *arguments: str, auths: bool = True
) -> "subprocess.CompletedProcess[str]":
    """A command with Docker's configuration for the place, and a configuration of its own that lets it be."""
    folder = library.root.parent / "home"
    environment = puna_environment(library, DOCKER_CONFIG=str(folder / "docker"))
    (folder / "docker").mkdir(parents=True, exist_ok=True)
    document = {"auths": place.auths if auths else {}}
    (folder / "docker" / "config.json").write_text(json.dumps(document))
    table = [f'[registries."{place.address}"]', "plain_http = true", "private = true"]
    if place.issuer is not None:
        realm = place.issuer.url.removesuffix("/token")
        table.append(f'realms = ["{realm}"]')
    configuration = folder / "config.toml"
    configuration.write_text("\n".join(table) + "\n")
    return subprocess.run(
        [sys.executable, "-m", "puna", *arguments],
        env={**environment, "PUNA_CONFIG": str(configuration)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_what_is_pushed_can_be_pulled_on_the_command_line(
    place: Place, source: Library, tmp_path: Path
) -> None:
    name = f"{place.address}/{USER}/model:v1"
    store(source, name)
    pushed = puna(place, source, "push", name)
    assert (pushed.returncode, "Error" in pushed.stderr) == (0, False), pushed.stderr
    assert place.proxy.uploaded() == TOTAL

    second = Library(tmp_path / "second" / "models")
    (tmp_path / "second").mkdir()
    pulled = puna(place, second, "pull", name)
    assert pulled.returncode == 0, pulled.stderr
    check_same(second, name)
    assert place.proxy.served() == TOTAL

    # All of it is there: nothing is sent either way.
    place.proxy.forget()
    assert puna(place, source, "push", name).returncode == 0
    assert puna(place, second, "pull", name).returncode == 0
    assert (place.proxy.uploaded(), place.proxy.served()) == (0, 0)


def test_without_credentials_there_is_one_line(place: Place, source: Library, tmp_path: Path) -> None:
    if not place.auths:
        pytest.skip("anyone may")
    name = f"{place.address}/{USER}/model:v1"
    store(source, name)
    for command in ("push", "pull"):
        done = puna(place, source, command, name, auths=False)
        assert done.returncode == 1
        errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1 and "Traceback" not in done.stderr
        assert "unauthorized" in errors[0].lower() or "denied" in errors[0].lower()


def test_passwords_are_told_to_nobody_else(place: Place, source: Library) -> None:
    """The registry with tokens never sees the password, and no output shows it."""
    name = f"{place.address}/{USER}/model:v1"
    store(source, name)
    done = puna(place, source, "push", name)
    encoded = basic_auth(USER, PASSWORD)["auth"]
    for secret in (PASSWORD, encoded, "from-a-log-in"):
        assert secret not in done.stdout + done.stderr
    if place.issuer is not None:
        assert not any(encoded in exchange.authorization for exchange in place.proxy.exchanges)


@pytest.fixture
def open_place(tmp_path: Path) -> Iterator[tuple[DockerRegistry, FaultProxy]]:
    with docker_registry.anonymous(tmp_path / "open") as registry, proxying(registry.address) as proxy:
        yield registry, proxy


def test_pushed_and_pulled_in_this_process(
    open_place: tuple[DockerRegistry, FaultProxy], source: Library, tmp_path: Path
) -> None:
    registry, proxy = open_place
    name = f"{proxy.address}/library/m:latest"
    store(source, name)
    push(name, source)
    assert registry.manifest("library/m") == IMAGE.manifest
    second = Library(tmp_path / "second")
    pull(name, second)
    check_same(second, name)
    assert (proxy.uploaded(), proxy.served()) == (TOTAL, TOTAL)


def test_a_manifest_comes_after_its_blobs(
    open_place: tuple[DockerRegistry, FaultProxy], source: Library
) -> None:
    _, proxy = open_place
    name = f"{proxy.address}/library/m:latest"
    store(source, name)
    push(name, source)
    last = proxy.exchanges[-1]
    assert (last.method, last.status) == ("PUT", 201)
    assert last in proxy.about(MANIFESTS)


def test_a_blob_of_another_repository_is_mounted(
    open_place: tuple[DockerRegistry, FaultProxy], source: Library
) -> None:
    """A layer that says where it comes from is asked for there, and not sent."""
    registry, proxy = open_place
    first = f"{proxy.address}/library/base:latest"
    store(source, first)
    push(first, source)
    proxy.forget()
    document = IMAGE.document
    document["layers"][0]["from"] = first
    derived = f"{proxy.address}/ann/derived:1"
    with source.session() as session:
        session.publish(parse_name(derived), json.dumps(document).encode())
    push(derived, source)
    mounts = [x for x in proxy.about(UPLOADS, "POST") if "mount=" in x.query]
    assert [x.status for x in mounts if digest_of(WEIGHTS).replace(":", "%3A") in x.query] == [201]
    assert proxy.uploaded() < len(WEIGHTS)
    second = Library(source.root.parent / "second")
    pull(derived, second)
    assert second.blobs.size(next(iter(second.manifests.read(parse_name(derived)).layers)).content) == len(
        WEIGHTS
    )
    assert registry.manifest("ann/derived", "1") == json.dumps(document).encode()


def test_what_the_registry_has_is_not_sent_again(
    open_place: tuple[DockerRegistry, FaultProxy], source: Library
) -> None:
    registry, proxy = open_place
    registry.hold(image(WEIGHTS), "library/m", "other")
    name = f"{proxy.address}/library/m:latest"
    store(source, name)
    push(name, source)
    assert proxy.uploaded() < 1000
    assert [x.status for x in proxy.about(BLOBS, "HEAD") if digest_of(WEIGHTS) in x.path] == [200]


def test_a_model_that_is_not_there(open_place: tuple[DockerRegistry, FaultProxy], source: Library) -> None:
    _, proxy = open_place
    with pytest.raises(ModelNotFound):
        pull(f"{proxy.address}/library/nothing:1", source)
    with pytest.raises(PunaError):
        push(f"{proxy.address}/library/nothing:1", source)
    assert list(source.root.rglob("*")) == []


def test_an_update_replaces_the_model_and_what_only_it_used(
    open_place: tuple[DockerRegistry, FaultProxy], source: Library
) -> None:
    registry, proxy = open_place
    name = f"{proxy.address}/library/m:latest"
    registry.hold(image(b"version one", ("license", b"text")), "library/m")
    pull(name, source)
    newer = image(b"version two", ("license", b"text"))
    registry.hold(newer, "library/m")
    pull(name, source)
    assert {path.name for path in source.blobs.folder.iterdir()} == {d.replace(":", "-") for d in newer.blobs}
