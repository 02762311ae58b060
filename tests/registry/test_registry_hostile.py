"""Registries that mean harm: each answer is refused with one line, and nothing is written, asked or told."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from tests.registry import hostile_inputs
from tests.registry.bombs import gzip_zeros, gzipped, zlib_zeros, zstd_zeros
from tests.registry.canary import Canary, ClosedNetwork, busy_threads, canary, open_files, tree_hash
from tests.registry.certificates import self_signed
from tests.registry.images import MANIFEST_TYPE, digest_of, image
from tests.registry.rogue_registry import Reply, Request, RogueRegistry, rogue
from tests.registry.transfers import HASTY, pull, push, registries

import puna
from puna.cli.main import COMMANDS, run
from puna.errors import AddressRefused, FetchError, OutOfSpace, PunaError
from puna.registry.registries import Registry
from puna.store.digest import Digest
from puna.store.library import Library
from puna.store.manifests import CONFIG_TYPE, MODEL_LAYER, image_manifest
from puna.store.model import read_model
from puna.store.name import parse_name

pytestmark = pytest.mark.timeout(120)

MARKER = "text-of-the-reply"
WEIGHTS = b"the weights of a model" * 1000
IMAGE = image(WEIGHTS, ("license", b"do as you like"))
MANIFEST = r"/v2/.*/manifests/.*"
BLOB = r"/v2/.*/blobs/.*"
TEN_GIB = 10 << 30


@dataclass(slots=True)
class World:
    """A store with one model, other files beside it, and a network that leads to one registry only."""

    folder: Path
    bird: Canary
    names: dict[str, list[Any]] = field(default_factory=dict)
    network: ClosedNetwork = field(init=False)

    def __post_init__(self) -> None:
        self.network = ClosedNetwork(self.bird, frozenset())
        (self.folder / "outside").mkdir()
        (self.folder / "outside" / "secret").write_text("a secret outside of the store")

    @property
    def library(self) -> Library:
        return Library(self.folder / "home" / "models")

    def files(self) -> dict[str, str]:
        """Every file of the store, and what it holds; notes on which blobs have been hashed left out."""
        root = self.library.root
        return {
            str(path.relative_to(root)): tree_hash(path)
            for path in root.rglob("*")
            if (path.is_symlink() or not path.is_dir()) and path.parent != root / ".puna" / "verified"
        }

    def refused(
        self,
        registry: RogueRegistry,
        *,
        name: str = "",
        insecure: bool = True,
        configured: Mapping[str, Registry] | None = None,
        may_stay: bool = False,
        act: Callable[..., object] = pull,
    ) -> str:
        """What a pull (or another act) is refused with; all that must hold of a refusal is checked.

        With `may_stay`, parts of a blob may stay for the next try.
        """
        self.network.reachable = frozenset({*self.network.reachable, (registry.host, registry.port)})
        self.network.names = self.names
        name = name or f"{registry.address}/t/m:1"
        files, outside, descriptors = self.files(), tree_hash(self.folder / "outside"), open_files()
        with pytest.raises(PunaError) as caught:
            act(name, self.library, insecure=insecure, network=self.network, configured=configured)
        self._check_traces(files, outside, descriptors, may_stay)
        message = str(caught.value)
        self._check_message(message)
        assert self.bird.heard == [] and self.network.strayed == [], message
        return message

    def _check_traces(
        self, files: dict[str, str], outside: str, descriptors: dict[int, str], may_stay: bool
    ) -> None:
        assert tree_hash(self.folder / "outside") == outside
        after = self.files()
        new = {path for path in after if path not in files}
        assert {path: after.get(path) for path in files} == files
        assert all(may_stay and self._may_stay(path) for path in new), new
        assert self.library.listing().damaged == []
        stores = [where for where in open_files().values() if str(self.library.root) in where]
        assert stores == [], descriptors
        deadline = time.monotonic() + 60
        while busy_threads() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert busy_threads() == []

    def _may_stay(self, path: str) -> bool:
        """Whether it is what has come of a blob, its journal, or a blob that has the content of its name."""
        name = path.rpartition("/")[2]
        if path.startswith("blobs/") and ".partial" not in name:
            content = (self.library.root / path).read_bytes()
            return name == digest_of(content).replace(":", "-")
        return path.startswith("blobs/") and (self.library.root / path).stat().st_size > 0

    def _check_message(self, message: str) -> None:
        assert message and message == " ".join(message.split()), message
        assert message.isprintable() and len(message) < 600
        assert not re.search("0x[0-9a-f]{6}", message)  # where an object is
        for forbidden in (str(self.folder), "Traceback", MARKER, self.bird.secret, "list index"):
            assert forbidden not in message


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an innocent model."""
    library = Library(tmp_path_factory.mktemp("prepared") / "models")
    with library.session() as session:
        layer = session.add(MODEL_LAYER, [b"an innocent model"])
        config = session.add(CONFIG_TYPE, [b"{}"])
        session.publish(parse_name("innocent"), image_manifest(config, [layer]))
    return library.root


@pytest.fixture
def world(tmp_path: Path, prepared: Path) -> Iterator[World]:
    shutil.copytree(prepared, tmp_path / "home" / "models")
    with canary("127.0.0.3") as bird:
        yield World(tmp_path, bird)


@pytest.fixture
def registry() -> Iterator[RogueRegistry]:
    with rogue(IMAGE) as running:
        yield running


def serve_manifest(registry: RogueRegistry, document: object) -> None:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    registry.answer(MANIFEST, Reply(headers=[("Content-Type", MANIFEST_TYPE)], body=content))


def asked_for_the_manifest_only(registry: RogueRegistry) -> bool:
    return registry.asked(MANIFEST) != [] and registry.asked(BLOB, ".*") == []


# A01, A02, A04, A05: what a digest may be.


@pytest.mark.parametrize("digest", hostile_inputs.DIGESTS, ids=repr)
@pytest.mark.parametrize("where", ["layer", "second layer", "config"])
def test_a_digest_that_is_none_is_refused_before_any_blob_is_asked_for(
    world: World, registry: RogueRegistry, where: str, digest: object
) -> None:
    document = IMAGE.document
    place = {
        "layer": document["layers"][0],
        "second layer": document["layers"][1],
        "config": document["config"],
    }
    place[where]["digest"] = digest
    serve_manifest(registry, document)
    world.refused(registry)
    assert asked_for_the_manifest_only(registry)


@pytest.mark.parametrize("kind", hostile_inputs.LAYER_KINDS)
@pytest.mark.parametrize(
    "digest", ["../../../outside/secret", "sha256-..%2f..%2fx", f"sha256:{hostile_inputs.HEX}/../../x"]
)
def test_one_validator_for_layers_of_all_types(
    world: World, registry: RogueRegistry, kind: str, digest: str
) -> None:
    document = IMAGE.document
    layer = {
        "mediaType": f"application/vnd.ollama.image.{kind}",
        "digest": digest,
        "size": 4,
        "name": "../../x",
    }
    document["layers"].append(layer)
    serve_manifest(registry, document)
    world.refused(registry)
    assert asked_for_the_manifest_only(registry)


def test_a_layer_cannot_name_a_folder_that_programs_load_from(world: World, registry: RogueRegistry) -> None:
    target = Path(puna.__file__).parent / "ggml" / "libggml-cpu.so"
    digest = f"../../../../../../../..{target}"
    document = IMAGE.document
    document["layers"].append(
        {"mediaType": "application/vnd.ollama.image.tensor", "digest": digest, "size": 64}
    )
    serve_manifest(registry, document)
    world.refused(registry)
    assert not target.exists()


# A03: the same in a manifest on the disk.


@pytest.mark.parametrize(
    "digest", ["../../../outside/secret", "/etc/hostname", "sha256:../../../outside/secret"]
)
@pytest.mark.parametrize("act", ["push", "copy", "delete", "read"])
def test_a_manifest_on_the_disk_reaches_no_file_outside(
    world: World, registry: RogueRegistry, act: str, digest: str
) -> None:
    document = IMAGE.document
    document["layers"][0]["digest"] = digest
    document["layers"][0]["size"] = (world.folder / "outside" / "secret").stat().st_size
    host = registry.address
    path = world.library.root / "manifests" / host / "t" / "m" / "1"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document))
    library, name = world.library, parse_name(f"{host}/t/m:1")
    outside = tree_hash(world.folder / "outside")
    if act == "delete":  # a damaged model may go, and nothing else with it
        library.delete(name)
        assert not path.exists()
    else:
        acts: dict[str, Callable[[], object]] = {
            "push": lambda: push(str(name), library, insecure=True),
            "copy": lambda: library.copy(name, parse_name("stolen")),
            "read": lambda: read_model(library, name),
        }
        with pytest.raises(PunaError) as caught:
            acts[act]()
        assert "a secret" not in str(caught.value)
        assert len(library.listing().models) == 1
    assert tree_hash(world.folder / "outside") == outside
    assert not any(b"a secret" in request.body for request in registry.requests)
    assert registry.asked(method="PUT|PATCH|POST") == []
    assert [str(model.name) for model in library.listing().models] == ["innocent:latest"]


# A07: one digest twice, and a blob that is damaged already.


def test_one_digest_for_config_and_layer_is_right_or_refused(world: World, registry: RogueRegistry) -> None:
    content = b'{"model_format":"gguf"}'
    held = image(content, config=content)
    registry.hold(held)
    wrong = Reply(body=b"x" * len(content))
    registry.answer(BLOB, Reply(body=content), wrong)
    name = f"{registry.address}/t/m:1"
    world.network.reachable = frozenset({(registry.host, registry.port)})
    try:
        pull(name, world.library, insecure=True, network=world.network)
    except PunaError:
        assert not world.library.blobs.path(parsed(digest_of(content))).exists()
        return
    assert world.library.blobs.path(parsed(digest_of(content))).read_bytes() == content


@pytest.mark.parametrize("order", ["right first", "wrong first", "wrong always"])
def test_wrong_bytes_never_get_the_name(world: World, registry: RogueRegistry, order: str) -> None:
    wrong = Reply(body=bytes(len(WEIGHTS)))
    digest = digest_of(WEIGHTS)
    if order == "wrong always":
        registry.answer(f"/v2/.*/blobs/{digest}", wrong)
        message = world.refused(registry)
        assert "digest" in message
        return
    registry.answer(
        f"/v2/.*/blobs/{digest}",
        *((wrong, registry.honest) if order == "wrong first" else (registry.honest, wrong)),
    )
    world.network.reachable = frozenset({(registry.host, registry.port)})
    pull(f"{registry.address}/t/m:1", world.library, insecure=True, network=world.network)
    assert world.library.blobs.path(parsed(digest)).read_bytes() == WEIGHTS


def test_a_damaged_blob_is_not_trusted(world: World, registry: RogueRegistry) -> None:
    path = world.library.blobs.path(parsed(digest_of(WEIGHTS)))
    path.write_bytes(bytes(len(WEIGHTS)))
    world.network.reachable = frozenset({(registry.host, registry.port)})
    pull(f"{registry.address}/t/m:1", world.library, insecure=True, network=world.network)
    assert path.read_bytes() == WEIGHTS


def parsed(digest: str) -> Digest:
    return Digest.parse(digest)


# A09, A10: who may ask for credentials.


@pytest.mark.parametrize("number", range(len(hostile_inputs.CHALLENGES)))
@pytest.mark.parametrize("place", ["manifest", "blob"])
def test_a_challenge_sends_nobody_elsewhere(
    world: World, registry: RogueRegistry, number: int, place: str
) -> None:
    with rogue() as other:
        world.network.reachable = frozenset({(other.host, other.port)})
        text = hostile_inputs.CHALLENGES[number].format(
            canary="{}:{}".format(*world.bird.addresses[0]),
            host=registry.host,
            port=registry.port,
            address=registry.address,
            other=other.port,
        )
        headers = [("WWW-Authenticate", text)]
        registry.answer(
            MANIFEST if place == "manifest" else BLOB, Reply(401, headers=headers, body=MARKER.encode())
        )
        world.refused(registry, may_stay=place == "blob")
        assert other.requests == []


def test_a_realm_must_be_encrypted_where_the_registry_is(world: World, tmp_path: Path) -> None:
    identity = self_signed("127.0.0.2")
    authority = tmp_path / "authority.pem"
    authority.write_bytes(identity.pem)
    with rogue(IMAGE, tls=identity.server_context(tmp_path)) as secure, rogue() as plain:
        configured = registries({secure.address: {"private": True, "ca": str(authority)}})
        world.network.reachable = frozenset({(plain.host, plain.port)})
        for realm in (f"http://{secure.address}/token", f"http://{plain.address}/token"):
            headers = [("WWW-Authenticate", f'Bearer realm="{realm}",service="s"')]
            secure.answer(MANIFEST, Reply(401, headers=headers))
            world.refused(secure, insecure=False, configured=configured)
        assert plain.requests == []
        assert secure.asked("/token") == []


# A12, A14: where a registry may send a client.


@pytest.mark.parametrize("location", hostile_inputs.LOCATIONS, ids=lambda text: repr(text[:40]))
@pytest.mark.parametrize("place", ["manifest", "blob"])
def test_a_redirect_to_where_no_registry_is_is_not_followed(
    world: World, registry: RogueRegistry, place: str, location: str
) -> None:
    world.names = {"localtest.me": [["127.0.0.1"]], "localhost": [["127.0.0.1", "::1"]]}
    headers = [("Location", location)]
    registry.answer(MANIFEST if place == "manifest" else BLOB, Reply(307, headers=headers))
    world.refused(registry, may_stay=place == "blob")


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 306, 307, 308])
def test_every_kind_of_redirect_is_checked(world: World, registry: RogueRegistry, status: int) -> None:
    headers = [("Location", "http://169.254.169.254/latest/meta-data/")]
    registry.answer(BLOB, Reply(status, headers=headers))
    world.refused(registry, may_stay=True)


def test_redirects_end(world: World, registry: RogueRegistry) -> None:
    registry.answer(BLOB, lambda request: Reply(307, headers=[("Location", request.target)]))
    world.refused(registry, may_stay=True)
    assert len(registry.requests) < 200


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.3"],
        ["10.1.2.3"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:10.0.0.1"],
        ["fe80::1"],
        ["0.0.0.0"],
    ],
    ids=str,
)
def test_a_redirect_to_a_name_of_a_private_address(
    world: World, registry: RogueRegistry, addresses: list[str]
) -> None:
    world.names = {"cdn.test": [addresses]}
    registry.answer(BLOB, Reply(307, headers=[("Location", "https://cdn.test/blob")]))
    world.refused(registry, may_stay=True)
    assert world.network.resolved.count("cdn.test") >= 1


def test_what_was_checked_is_what_is_connected_to(world: World, registry: RogueRegistry) -> None:
    """DNS rebinding: a public address at the first question, a private one at all others."""
    public, private = "93.184.216.34", "127.0.0.3"
    network = world.network
    network.reachable = frozenset({(registry.host, registry.port)})
    network.names = {"cdn.test": [[public], [private]]}
    registry.answer(BLOB, Reply(307, headers=[("Location", "https://cdn.test/blob")]))
    with pytest.raises(PunaError):
        pull(f"{registry.address}/t/m:1", world.library, insecure=True, network=network)
    assert (private, 443) not in network.connected
    # No question was asked between the check and the connection.
    connected = [address for address, _ in network.connected]
    assert connected.count(public) <= 1 <= network.resolved.count("cdn.test")


# A16, A26, A27: hosts that a name may not point to.


@pytest.mark.parametrize("act", [pull, push], ids=["pull", "push"])
@pytest.mark.parametrize(
    ("host", "insecure"),
    [
        *((host, insecure) for host in hostile_inputs.HOSTS for insecure in (False, True)),
        *((host, False) for host in hostile_inputs.PRIVATE_HOSTS),
    ],
)
def test_a_name_does_not_lead_inside(
    world: World, host: str, insecure: bool, act: Callable[..., object]
) -> None:
    name = f"{host}/library/x"
    world.names = {
        "localhost": [["127.0.0.1", "::1"]],
        "metadata.google.internal": [["169.254.169.254"]],
        "foo.internal": [["10.0.0.7"]],
    }
    if act is push:
        try:
            world.library.copy(parse_name("innocent"), parse_name(name))
        except PunaError:
            pytest.skip("such a name cannot be in the store")
    with rogue() as nowhere:
        world.refused(nowhere, name=name, insecure=insecure, act=act)
    assert world.network.connected == []


def test_http_is_spoken_with_leave_only(world: World, registry: RogueRegistry) -> None:
    with pytest.raises(PunaError):
        pull(f"http://{registry.address}/t/m:1", world.library, insecure=False, network=world.network)
    assert registry.requests == []


def test_https_does_not_become_http(world: World, tmp_path: Path) -> None:
    identity = self_signed("127.0.0.2")
    authority = tmp_path / "authority.pem"
    authority.write_bytes(identity.pem)
    with rogue(IMAGE, tls=identity.server_context(tmp_path)) as secure, rogue(IMAGE) as plain:
        configured = registries({secure.address: {"private": True, "ca": str(authority)}})
        world.network.reachable = frozenset({(plain.host, plain.port)})
        for place in (BLOB, MANIFEST):
            secure.answer(place, lambda x: Reply(307, headers=[("Location", f"{plain.url}{x.target}")]))
            message = world.refused(secure, insecure=False, configured=configured, may_stay=True)
            assert "http" in message
        assert plain.requests == []


def test_a_certificate_of_nobody_is_refused(world: World, tmp_path: Path) -> None:
    identity = self_signed("127.0.0.2")
    with rogue(IMAGE, tls=identity.server_context(tmp_path)) as secure:
        configured = registries({secure.address: {"private": True}})
        message = world.refused(secure, insecure=False, configured=configured)
        assert "certificate" in message
        assert secure.requests == []


# A17: what a registry says in its errors.


@pytest.mark.parametrize(
    "status", [400, 401, 402, 403, 404, 405, 412, 418, 429, 451, 500, 501, 502, 503, 504, 599]
)
@pytest.mark.parametrize("place", ["manifest", "blob"])
def test_the_text_of_an_error_is_not_repeated(
    world: World, registry: RogueRegistry, place: str, status: int
) -> None:
    body = json.dumps({"errors": [{"code": MARKER, "message": MARKER, "detail": world.bird.secret}]}).encode()
    headers = [("X-Secret", MARKER), ("Content-Type", "application/json"), ("Retry-After", "0")]
    registry.answer(MANIFEST if place == "manifest" else BLOB, Reply(status, headers=headers, body=body))
    world.refused(registry, may_stay=place == "blob")


@pytest.mark.parametrize("head", hostile_inputs.HEADS, ids=lambda head: repr(head[:60]))
@pytest.mark.parametrize("place", ["manifest", "blob"])
def test_what_is_no_http(world: World, registry: RogueRegistry, place: str, head: bytes) -> None:
    registry.answer(MANIFEST if place == "manifest" else BLOB, Reply(head=head))
    world.refused(registry, may_stay=place == "blob")


# A18: little that becomes much. In a process of its own, whose memory is measured.

BOMBS: dict[str, tuple[str, Callable[[], Iterator[bytes]]]] = {
    "gzip": ("gzip", lambda: gzip_zeros(TEN_GIB)),
    "gzip in gzip": ("gzip, gzip", lambda: gzipped(gzip_zeros(TEN_GIB // 10))),
    "gzip in gzip, told of one": ("gzip", lambda: gzipped(gzip_zeros(TEN_GIB // 10))),
    "deflate": ("deflate", lambda: zlib_zeros(TEN_GIB)),
    "zstd": ("zstd", lambda: zstd_zeros(TEN_GIB)),
    "br": ("br", lambda: iter(lambda: bytes(1 << 16), b"")),
    "nothing": ("identity", lambda: repeat(bytes(1 << 16), TEN_GIB >> 16)),
}


@pytest.mark.parametrize(
    ("bomb", "place"),
    [
        pytest.param(bomb, place, marks=[] if bomb == "gzip" or place == "blob" else pytest.mark.slow)
        for bomb in BOMBS
        for place in ("manifest", "token", "error", "blob")
    ],
)
def test_a_bomb_does_not_go_off(tmp_path: Path, registry: RogueRegistry, bomb: str, place: str) -> None:
    encoding, body = BOMBS[bomb]
    reply = Reply(403 if place == "error" else 200, headers=[("Content-Encoding", encoding)], body=body)
    if place == "token":
        challenge = f'Bearer realm="{registry.url}/token",service="s",scope="x"'
        registry.answer(MANIFEST, Reply(401, headers=[("WWW-Authenticate", challenge)]))
    registry.answer({"token": "/token", "blob": BLOB}.get(place, MANIFEST), reply)
    result = measured_pull(registry, tmp_path)
    assert result["error"] and result["grown"] < 64 << 20, result
    disk = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert disk < 1 << 20


def measured_pull(registry: RogueRegistry, folder: Path) -> Any:
    """How much memory a pull took in a fresh process, and its error."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.registry.measured_pull", f"{registry.address}/t/m:1", str(folder)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# A19: what never ends.


CHUNKED = b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 x\r\n\r\n"


def drip() -> Iterator[bytes]:
    while True:
        yield b" "


UNENDING = {
    "body": Reply(body=drip, pause=0.2),
    "headers": Reply(head=b"HTTP/1.1 200 x\r\n", body=lambda: repeat(b"A: b\r\n"), pause=0.2),
    "headers at once": Reply(head=b"HTTP/1.1 200 x\r\n", body=lambda: repeat(b"A: b\r\n")),
    "status line": Reply(head=b"HTTP/1.1 ", stall=True),
    "a length not kept": Reply(body=b"{", length="1000", stall=True),
    "chunks": Reply(head=CHUNKED, body=lambda: repeat(b"1\r\nx\r\n"), pause=0.2),
    "100 for ever": Reply(head=CONTINUE, body=lambda: repeat(CONTINUE), pause=0.1),
}


@pytest.mark.parametrize("kind", UNENDING)
def test_a_manifest_that_never_ends_is_ended(world: World, registry: RogueRegistry, kind: str) -> None:
    registry.answer(MANIFEST, UNENDING[kind])
    world.refused(registry, act=partial(pull, patience=replace(HASTY, deadline=1.0, idle=0.7)))


@pytest.mark.parametrize("kind", UNENDING)
def test_a_token_that_never_ends_is_ended(world: World, registry: RogueRegistry, kind: str) -> None:
    challenge = f'Bearer realm="{registry.url}/token",service="s",scope="x"'
    registry.answer(MANIFEST, Reply(401, headers=[("WWW-Authenticate", challenge)]))
    registry.answer("/token", UNENDING[kind])
    world.refused(registry, act=partial(pull, patience=replace(HASTY, deadline=1.0, idle=0.7)))


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_server_that_never_says_a_word(world: World, secure: bool) -> None:
    with rogue(silent=True) as silent:
        configured = registries({silent.address: {"private": True, "plain_http": not secure}})
        world.refused(silent, insecure=False, configured=configured)


def test_a_pull_that_waits_is_stopped_at_once(tmp_path: Path) -> None:
    """Ctrl-C during a handshake that stalls."""
    with rogue(silent=True) as silent:
        program = subprocess.Popen(
            [sys.executable, "-m", "puna", "pull", f"{silent.address}/t/m:1", "--insecure"],
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 60
        while not established(silent.port) and time.monotonic() < deadline:
            time.sleep(0.01)
        program.send_signal(signal.SIGINT)
        _, err = program.communicate(timeout=20)
    assert program.returncode == 130
    assert "Traceback" not in err


def established(port: int) -> bool:
    """Whether there is a TCP connection to the port, by the word of the system."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[2].endswith(f":{port:04X}") and line.split()[3] == "01" for line in lines)


def environment(folder: Path) -> dict[str, str]:
    """For a command with a home and a store of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PUNA_", "OLLAMA_", "DOCKER_", "XDG_"))}
    return {**kept, "HOME": str(folder / "home"), "COLUMNS": "80"}


# A20, A23: sizes.


@pytest.mark.parametrize("size", hostile_inputs.SIZES, ids=lambda size: size[:20])
@pytest.mark.parametrize("where", ["layer", "config"])
def test_a_size_that_is_wrong_or_none(world: World, registry: RogueRegistry, where: str, size: str) -> None:
    document = IMAGE.document
    place = document["layers"][0] if where == "layer" else document["config"]
    place["size"] = "THE SIZE"
    serve_manifest(registry, json.dumps(document).replace('"THE SIZE"', size).encode())
    world.refused(registry, may_stay=True)


@pytest.mark.parametrize("where", ["layer", "config"])
def test_a_size_that_is_missing(world: World, registry: RogueRegistry, where: str) -> None:
    document = IMAGE.document
    del (document["layers"][0] if where == "layer" else document["config"])["size"]
    serve_manifest(registry, document)
    world.refused(registry)
    assert asked_for_the_manifest_only(registry)


@pytest.mark.parametrize("difference", [-1, 1, 1000])
def test_a_size_that_the_blob_has_not(world: World, registry: RogueRegistry, difference: int) -> None:
    document = IMAGE.document
    document["layers"][0]["size"] += difference
    serve_manifest(registry, document)
    world.refused(registry, may_stay=True)


@pytest.mark.parametrize("length", ["", "0", "-1", "5", str(len(WEIGHTS) + 1), str(2**70), "x", "1,2"])
def test_a_length_that_the_blob_has_not(world: World, registry: RogueRegistry, length: str) -> None:
    """Without a length what comes is what counts; every other lie is found."""
    registry.answer(
        f"/v2/.*/blobs/{digest_of(WEIGHTS)}", Reply(body=b"y" + WEIGHTS[1:], length=length or None)
    )
    world.refused(registry, may_stay=True)


@pytest.mark.parametrize("content_range", hostile_inputs.RANGES)
def test_a_range_that_was_not_asked_for(world: World, registry: RogueRegistry, content_range: str) -> None:
    wrong = bytes(len(WEIGHTS))
    headers = [("Content-Range", content_range)] if content_range else []
    registry.answer(f"/v2/.*/blobs/{digest_of(WEIGHTS)}", Reply(206, headers=headers, body=wrong))
    world.refused(registry, may_stay=True)


@pytest.mark.parametrize("document", hostile_inputs.MANIFESTS, ids=lambda document: repr(document[:40]))
def test_a_manifest_that_is_none(world: World, registry: RogueRegistry, document: bytes) -> None:
    serve_manifest(registry, document)
    world.refused(registry)
    assert asked_for_the_manifest_only(registry)


def test_more_layers_than_any_model_has(world: World, registry: RogueRegistry) -> None:
    document = IMAGE.document
    document["layers"] *= 15_000
    serve_manifest(registry, json.dumps(document, separators=(",", ":")).encode())
    world.refused(registry)
    assert asked_for_the_manifest_only(registry)


def test_a_model_larger_than_the_disk(world: World, registry: RogueRegistry) -> None:
    document = IMAGE.document
    document["layers"][0]["size"] = 1 << 50
    serve_manifest(registry, document)
    registry.answer(f"/v2/.*/blobs/{digest_of(WEIGHTS)}", Reply(body=drip, pause=0.1, length=str(1 << 50)))
    files = world.files()
    world.network.reachable = frozenset({(registry.host, registry.port)})
    with pytest.raises(OutOfSpace) as caught:
        pull(f"{registry.address}/t/m:1", world.library, insecure=True, network=world.network)
    assert "\n" not in str(caught.value)
    assert world.files() == files
    assert registry.asked(f"/v2/.*/blobs/{digest_of(WEIGHTS)}") == []


def test_sizes_that_together_are_larger_than_the_disk(world: World, registry: RogueRegistry) -> None:
    free = shutil.disk_usage(world.folder).free
    document = IMAGE.document
    one = document["layers"][0]
    document["layers"] = [
        {**one, "digest": digest_of(bytes([number])), "size": free // 2} for number in range(10)
    ]
    serve_manifest(registry, document)
    world.network.reachable = frozenset({(registry.host, registry.port)})
    with pytest.raises(OutOfSpace):
        pull(f"{registry.address}/t/m:1", world.library, insecure=True, network=world.network)
    assert asked_for_the_manifest_only(registry)


# Secrets do not go where they were not meant for.


def test_a_redirect_elsewhere_does_not_carry_credentials(world: World, registry: RogueRegistry) -> None:
    """A token of the registry stays with its origin; the blob is had from the other port all the same."""
    with rogue(IMAGE) as storage:
        challenge = f'Bearer realm="{registry.url}/token",service="s",scope="x"'
        registry.answer("/token", Reply(body=b'{"token":"t0ken"}'))

        def guarded(request: Request) -> Reply:
            if request.headers.get("authorization") != "Bearer t0ken":
                return Reply(401, headers=[("WWW-Authenticate", challenge)])
            if "/blobs/" in request.path:
                return Reply(307, headers=[("Location", f"{storage.url}{request.target}")])
            return registry.honest(request)

        registry.answer("/v2/.*", guarded)
        world.network.reachable = frozenset({(registry.host, registry.port), (storage.host, storage.port)})
        pull(f"{registry.address}/t/m:1", world.library, insecure=True, network=world.network)
        assert len(storage.requests) >= 2
        assert [request.headers.get("authorization") for request in storage.requests] == [None] * len(
            storage.requests
        )


def test_a_token_that_is_none(world: World, registry: RogueRegistry) -> None:
    challenge = f'Bearer realm="{registry.url}/token",service="s",scope="x"'
    registry.answer(MANIFEST, Reply(401, headers=[("WWW-Authenticate", challenge)]))
    for token in hostile_inputs.TOKENS:
        registry.answer("/token", Reply(body=token))
        world.refused(registry)
    for request in registry.requests:
        assert "x" not in request.headers


# Several at once: one that stalls holds up no other.


def test_a_registry_that_stalls_holds_up_no_other(world: World, registry: RogueRegistry) -> None:
    with rogue(silent=True) as silent:
        world.network.reachable = frozenset({(silent.host, silent.port), (registry.host, registry.port)})
        stalled = threading.Event()

        def stall() -> None:
            with pytest.raises(FetchError):
                pull(f"{silent.address}/t/m:1", world.library, insecure=True, network=world.network)
            stalled.set()

        thread = threading.Thread(target=stall)
        thread.start()
        pull(f"{registry.address}/t/m:1", world.library, insecure=True, network=world.network)
        thread.join()
        assert stalled.is_set()
    names = {str(model.name) for model in world.library.listing().models}
    assert names == {"innocent:latest", f"{registry.address}/t/m:1"}


def test_hasty_is_hasty() -> None:
    """The deadlines of these tests are short ones, given through the client's own parameters."""
    assert HASTY.deadline <= 3 and HASTY.idle <= 3
    assert issubclass(AddressRefused, FetchError)


# A29: names.


@pytest.mark.parametrize("name", hostile_inputs.NAMES, ids=lambda name: repr(name[:20]))
@pytest.mark.parametrize("command", sorted({"pull", "push", "show", "cp", "rm", "create"} & COMMANDS.keys()))
def test_a_name_that_is_none_says_nothing_of_files(
    world: World,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    name: str,
) -> None:
    monkeypatch.setenv("PUNA_MODELS", str(world.library.root))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")  # nothing leaves this machine
    monkeypatch.chdir(world.folder)
    arguments = [command, "--", name, *(["copy"] if command == "cp" else [])]
    files = world.files()
    answers = []
    for there in (False, True):
        target = world.folder / "b"
        if there:
            target.write_text("a file that the name could lead to")
        assert run(arguments) == 1
        answers.append(capsys.readouterr())
    assert answers[0] == answers[1]
    assert answers[0].err.startswith("Error: ") and answers[0].err.count("\n") == 1
    assert "Traceback" not in answers[0].err and str(world.folder) not in answers[0].err
    assert world.files() == files
