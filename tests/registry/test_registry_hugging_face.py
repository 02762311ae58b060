"""Names on hf.co: Ollama's protocol, with blobs that lie with another host."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.registry.certificates import self_signed
from tests.registry.images import digest_of, image
from tests.registry.rogue_registry import Reply, Request, RogueRegistry, rogue
from tests.registry.transfers import HASTY, QUICK, SMALL, ignore, registries

from puna.errors import FetchError
from puna.registry.access import Access
from puna.registry.client import Identity
from puna.registry.network import Network
from puna.registry.pull import pull_model
from puna.registry.registries import registry_for
from puna.store.library import Library
from puna.store.manifests import MODEL_LAYER
from puna.store.name import parse_name

WEIGHTS = b"weights" * 300_000
IMAGE = image(WEIGHTS, ("template", b"{{ .Prompt }}"))
# Public addresses, so that nothing is allowed that would not be; the connector leads them to this machine.
ADDRESSES = {"hf.co": "18.0.0.1", "cdn.example": "18.0.0.2"}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, RogueRegistry]]:
    """A hub that redirects for blobs, and the host that has them."""
    identity = self_signed(*ADDRESSES)
    (tmp_path / "ca.pem").write_bytes(identity.pem)
    context = identity.server_context(tmp_path)
    with rogue(IMAGE, tls=context) as front, rogue(IMAGE, host="127.0.0.4", tls=context) as store:
        front.answer(r"/v2/.*/blobs/.*", redirect)
        yield {"hf.co": front, "cdn.example": store}


def redirect(request: Request) -> Reply:
    place = f"https://cdn.example{request.path}?signature=abc"
    return Reply(302, [("Location", place)])


def access(hub: dict[str, RogueRegistry], ca: Path) -> Access:
    def resolve(host: str, port: int) -> list[str]:
        return [ADDRESSES[host]]

    def connect(address: str, port: int, timeout: float) -> socket.socket:
        assert port == 443
        server = hub[next(name for name, known in ADDRESSES.items() if known == address)]
        return socket.create_connection((server.host, server.port), timeout)

    return Access(
        Identity(lambda _: None, ca.parent / "no-key"),
        Network(resolve, connect),
        registries({"hf.co": {"ca": str(ca), "ollama_key": False}}),
        HASTY,
        QUICK,
        SMALL,
    )


def test_a_quantization_is_a_tag_and_blobs_are_fetched_from_where_the_hub_says(
    hub: dict[str, RogueRegistry], tmp_path: Path
) -> None:
    library = Library(tmp_path / "models")
    name = parse_name("hf.co/User/Some-Model-GGUF:Q4_K_M")
    way = access(hub, tmp_path / "ca.pem")
    pull_model(name, registry_for(name.host, way.registries), library, ignore, way)

    front, store = hub["hf.co"], hub["cdn.example"]
    assert len(front.asked("/v2/User/Some-Model-GGUF/manifests/Q4_K_M")) == 1
    assert library.manifests.stored(name).content == IMAGE.manifest
    layer = library.manifests.read(name).first(MODEL_LAYER)
    assert layer is not None and layer.digest == digest_of(WEIGHTS)
    assert library.blobs.path(layer.content).read_bytes() == WEIGHTS
    assert {request.target.partition("?")[2] for request in store.requests} == {"signature=abc"}
    assert all("authorization" not in request.headers for request in store.requests)
    assert str(name) == "hf.co/User/Some-Model-GGUF:Q4_K_M"


def test_the_hubs_token_does_not_go_along(hub: dict[str, RogueRegistry], tmp_path: Path) -> None:
    front, store = hub["hf.co"], hub["cdn.example"]

    def protected(request: Request) -> Reply:
        if request.headers.get("authorization") != "Bearer secret":
            challenge = 'Bearer realm="https://hf.co/token",service="hf.co",scope="repository:u/m:pull"'
            return Reply(401, [("WWW-Authenticate", challenge)])
        return redirect(request) if "/blobs/" in request.path else front.honest(request)

    front.answer(r"/v2/.*", protected)
    front.answer(r"/token", Reply(body=b'{"token": "secret"}'))
    library = Library(tmp_path / "models")
    name = parse_name("hf.co/u/m:Q8_0")
    way = access(hub, tmp_path / "ca.pem")
    pull_model(name, registry_for(name.host, way.registries), library, ignore, way)
    assert len(front.asked("/token")) == 1
    assert any(request.headers.get("authorization") == "Bearer secret" for request in front.requests)
    assert store.requests
    assert all("authorization" not in request.headers for request in store.requests)


def test_a_certificate_that_is_not_trusted_is_not_tried_again(
    hub: dict[str, RogueRegistry], tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_bytes(self_signed("hf.co").pem)
    name = parse_name("hf.co/u/m")
    way = access(hub, tmp_path / "ca.pem")
    with pytest.raises(FetchError, match=r"^pull model manifest: the certificate of hf\.co is not trusted"):
        pull_model(name, registry_for(name.host, way.registries), Library(tmp_path / "m"), ignore, way)
    assert not (tmp_path / "m").exists()
