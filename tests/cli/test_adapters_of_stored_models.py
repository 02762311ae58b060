"""LoRA adapters of models in a store: those that a Modelfile names, and those that requests name."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests import lora
from tests.cli.conftest import Puna
from tests.served import Served, serving
from tests.served_models import CHAT, GREEDY, add_model
from tests.tiny_llama import write_tiny_llama

from puna import load
from puna.client import Client
from puna.create.request import CreateRequest
from puna.errors import InvalidOption, ModelNotFound
from puna.services.creation import create
from puna.store.library import Library
from puna.store.manifests import ADAPTER_LAYER
from puna.store.name import parse_name

ASKED = {"prompt": "What is it?", "stream": False, "options": {"num_predict": 8}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny`, two models of it with an adapter each, and one of another model."""
    folder = tmp_path_factory.mktemp("adapters")
    library = Library(folder / "models")
    tiny, wide = write_tiny_llama(folder / "tiny.gguf"), write_tiny_llama(folder / "wide.gguf", hidden=128)
    for name, path in (("tiny", tiny), ("wide", wide)):
        add_model(library, name, path, template=CHAT, parameters=GREEDY)
    add_adapted(library, "tuned", "tiny", lora.write_adapter(folder / "a.gguf", tiny, seed=1))
    add_adapted(library, "other", "tiny", lora.write_adapter(folder / "b.gguf", tiny, seed=2))
    add_adapted(library, "broad", "wide", lora.write_adapter(folder / "c.gguf", wide))
    return folder / "models"


def add_adapted(library: Library, name: str, base: str, adapter: Path) -> None:
    with library.session() as session:
        layer = session.adopt(ADAPTER_LAYER, adapter)
        request = CreateRequest(
            parse_name(name), from_=parse_name(base), adapters={adapter.name: layer.content}
        )
        create(request, library, lambda step: None)


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Served]:
    with serving(store.parent, store) as served:
        yield served


@pytest.fixture(scope="module")
def expected(store: Path) -> dict[str, str]:
    """What the model says with its adapters, in this process."""
    said = {}
    for names in ("", "a", "b", "ab"):
        files = [store.parent / f"{name}.gguf" for name in names]
        options: dict[str, Any] = {"num_thread": 1, "temperature": 0, "num_predict": 8}
        with load(store.parent / "tiny.gguf", adapters=files, **options) as model:
            said[names] = model.generate("What is it?", template=CHAT).response
    assert len({*said.values()}) == 4
    return said


def said(server: Served, model: str, *adapters: Any) -> str:
    reply = server.post("/api/generate", {**ASKED, "model": model, "adapters": list(adapters)})
    assert reply.status == 200, reply.body
    return str(reply.json["response"])


def runners(server: Served) -> list[str]:
    """The processes that the server has started."""
    tasks = Path(f"/proc/{server.pid}/task").iterdir()
    return [child for task in tasks for child in (task / "children").read_text().split()]


def test_one_model_in_memory_answers_with_all_of_them(server: Served, expected: dict[str, str]) -> None:
    assert said(server, "tiny") == expected[""]
    before = runners(server)
    assert said(server, "tuned") == expected["a"]
    assert said(server, "other") == expected["b"]
    assert said(server, "tiny", {"name": "tuned"}) == expected["a"]
    assert said(server, "tiny", {"name": "tuned"}, {"name": "other", "scale": 1}) == expected["ab"]
    assert said(server, "other", {"name": "tuned:latest"}) == expected["ab"]
    assert said(server, "tiny", {"name": "tuned", "scale": 0}) == expected[""]
    assert said(server, "tuned", {"name": "tuned", "scale": 0}) == expected[""]
    assert said(server, "tiny") == expected[""]
    assert runners(server) == before


def test_a_conversation(server: Served) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": False, "options": {"num_predict": 8}}
    plain, tuned, named = (
        server.post("/api/chat", {**body, **more}).json["message"]["content"]
        for more in (
            {"model": "tiny"},
            {"model": "tuned"},
            {"model": "tiny", "adapters": [{"name": "tuned"}]},
        )
    )
    assert plain != tuned == named


def test_openai_s_routes(server: Served) -> None:
    """Clients send the field as `extra_body`."""

    def text(route: str, body: dict[str, Any], *adapters: Any) -> str:
        asked = {"model": "tiny", "temperature": 0, "adapters": list(adapters), **body}
        return json.dumps(server.post(f"/v1/{route}?strict=1", asked).json["choices"][0])

    for route, body in (
        ("completions", {"prompt": "What", "max_tokens": 8}),
        ("chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}),
    ):
        plain = text(route, body)
        tuned = text(route, body, {"name": "tuned"})
        assert plain != tuned == text(route, {**body, "model": "tuned"})
        assert text(route, body, {"name": "tuned", "scale": 0.5}) not in (plain, tuned)


def test_vectors_are_made_with_the_model_s_own(server: Served) -> None:
    vectors = [
        server.post("/api/embed", {"model": name, "input": "hi"}).json["embeddings"][0]
        for name in ("tiny", "tuned", "tiny")
    ]
    assert vectors[0] == vectors[2] != vectors[1]


@pytest.mark.parametrize(
    ("adapters", "status", "message"),
    [
        ([{"name": "nobody"}], 404, "adapter 'nobody' not found"),
        ([{"name": "tiny"}], 400, "model 'tiny' has no adapter"),
        ([{"name": "/etc/passwd"}], 400, "invalid name of an adapter: '/etc/passwd'"),
        ([{"name": "../../blobs/x"}], 400, "invalid name of an adapter: '../../blobs/x'"),
        ([{"name": ""}], 400, "invalid name of an adapter: ''"),
        ([{}], 400, "invalid name of an adapter: ''"),
        ([{"name": "tuned"}, {"name": "tuned", "scale": 2}], 400, "an adapter is named twice"),
        ([{"name": "tuned"}] * 9, 400, "there are 9 adapters; at most 8 are allowed"),
        ([{"name": "broad"}], 0, "does not fit the model"),
    ],
)
def test_what_is_refused(server: Served, adapters: Any, status: int, message: str) -> None:
    reply = server.post("/api/generate", {**ASKED, "model": "tiny", "adapters": adapters})
    assert message in reply.error and "\n" not in reply.error
    assert reply.status == (status or 500)
    assert said(server, "tiny", {"name": "tuned"}) == said(server, "tuned")


@pytest.mark.parametrize("adapters", ['["tuned"]', '{"name": "tuned"}', '[{"name": "tuned", "scale": "1"}]'])
def test_what_is_no_list_of_adapters(server: Served, adapters: str) -> None:
    body = f'{{"model": "tiny", "prompt": "hi", "adapters": {adapters}}}'
    reply = server.post("/api/generate", body.encode())
    assert reply.status == 400 and "adapters" in reply.error


def test_the_python_client(server: Served, expected: dict[str, str]) -> None:
    with Client(server.url) as client:
        both: list[list[Any]] = [["tuned", "other"], ["tuned", {"name": "other", "scale": 1.0}]]
        for given in both:
            reply = client.generate("tiny", "What is it?", adapters=given, options={"num_predict": 8})
            assert reply.response == expected["ab"]
        with pytest.raises(ModelNotFound, match="adapter 'nobody' not found"):
            client.generate("tiny", "hi", adapters=["nobody"])
        with pytest.raises(InvalidOption, match="adapters must be a list of names"):
            client.generate("tiny", "hi", adapters="tuned")


def test_in_process(store: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_MODELS", str(store))
    options: dict[str, Any] = {"num_thread": 1, "num_predict": 8}
    with load("tuned", **options) as model:

        def text(*adapters: Any) -> str:
            return model.generate("What is it?", adapters=adapters).response

        assert text() == expected["a"]
        assert text("other") == expected["ab"]
        assert text({"name": "tuned", "scale": 0}) == expected[""]
        wrong: Any
        for wrong in ([1], [{"name": 1}], "other"):
            with pytest.raises(InvalidOption, match="adapters"):
                model.generate("hi", adapters=wrong)


@pytest.mark.parametrize(
    "arguments",
    [
        ["tuned", "What is it?"],
        ["tiny", "What is it?", "--adapter", "tuned"],
        ["tiny", "What is it?", "--adapter", "tuned=0.5", "--adapter", "other=-1"],
        ["tiny", "What is it?", "--adapter", "nobody"],
        ["tiny", "What is it?", "--adapter", "tuned=x"],
        ["tiny", "What is it?", "--adapter", "tuned=nan"],
    ],
)
def test_the_command_line_with_a_server_and_without(
    puna: Puna, server: Served, store: Path, arguments: Sequence[str]
) -> None:
    run = ("run", *arguments, "--num-predict", "8")
    here = puna(*run, PUNA_MODELS=str(store))
    there = puna(*run, PUNA_HOST=server.url, PUNA_MODELS=str(store.parent / "none"))
    assert here.returncode == there.returncode == (1 if arguments[-1][-1] in "yxn" else 0)
    assert here.stdout == there.stdout
    assert len(here.stderr.splitlines()) == len(there.stderr.splitlines()) == here.returncode


def test_a_plan_counts_them(puna: Puna, store: Path) -> None:
    sizes = [
        json.loads(puna("plan", name, "--json", PUNA_MODELS=str(store)).stdout)["devices"][0]["weights"]
        for name in ("tiny", "tuned")
    ]
    halves = lora.tensors(store.parent / "a.gguf")
    assert sizes[1] == sizes[0] + sum(half.nbytes for half in halves.values())
