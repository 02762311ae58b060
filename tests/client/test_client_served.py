"""The client and a running server; and the same with a model in this process."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.served import Served, serving
from tests.served_models import CALL, fill

import puna
from puna.client import AsyncClient, Client
from puna.client.replies import Answer
from puna.errors import (
    ContextLengthExceeded,
    InvalidOption,
    MissingCapability,
    ModelNotFound,
    PunaError,
    Unauthorized,
)
from puna.inprocess import Model

HI = [{"role": "user", "content": "hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
# What differs from answer to answer.
MEASURED = {
    *("created_at", "total_duration", "load_duration", "prompt_eval_duration", "eval_duration"),
    *("cached_tokens", "context"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("served") / "models"
    fill(store)
    return store


@pytest.fixture(scope="module")
def served(store: Path) -> Iterator[Served]:
    with serving(store.parent, store) as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.url) as client:
        yield client


@pytest.fixture
def loaded(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Loads models into this process, once each."""
    monkeypatch.setenv("PUNA_MODELS", str(store))
    models: dict[str, Model] = {}

    def load(name: str) -> Model:
        if name not in models:
            models[name] = puna.load(name)
        return models[name]

    yield load
    for model in models.values():
        model.close()


def told(reply: Answer) -> dict[str, Any]:
    """The reply without what differs from time to time."""
    document: dict[str, Any] = msgspec.to_builtins(reply)
    return {name: value for name, value in document.items() if name not in MEASURED}


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("said", {}),
        ("told", {}),
        ("thinks", {}),
        ("thinks", {"think": False}),
        ("thinks", {"format": {"const": 1}, "think": False}),
        ("calls", {"tools": [WEATHER]}),
        ("said", {"options": {"stop": ["three"], "num_predict": 5}}),
        ("said", {"logprobs": True, "top_logprobs": 2}),
    ],
)
def test_a_conversation_is_the_same_in_process(
    client: Client, loaded: Any, model: str, arguments: dict[str, Any]
) -> None:
    there, here = client.chat(model, HI, **arguments), loaded(model).chat(HI, **arguments)
    assert told(there) == told(here)
    pieces = zip(
        client.chat(model, HI, stream=True, **arguments),
        loaded(model).chat(HI, stream=True, **arguments),
        strict=True,
    )
    for one, other in pieces:
        assert told(one) == told(other)


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("said", {"prompt": "hi"}),
        ("told", {"prompt": "hi", "system": "Be long."}),
        ("fills", {"prompt": "a", "suffix": "b"}),
        ("thinks", {"prompt": "hi"}),
        ("tiny", {"prompt": "hi", "raw": True, "options": {"num_predict": 9}}),
        ("tiny", {"prompt": "hi", "template": "x{{ .Prompt }}", "options": {"num_predict": 9}}),
        ("tiny", {"prompt": "hi", "context": [5, 6, 7], "options": {"num_predict": 9}}),
        ("said", {"prompt": ""}),
    ],
)
def test_a_prompt_is_the_same_in_process(
    client: Client, loaded: Any, model: str, arguments: dict[str, Any]
) -> None:
    there, here = client.generate(model, **arguments), loaded(model).generate(**arguments)
    assert told(there) == told(here)


@pytest.mark.parametrize(
    ("model", "arguments", "kind"),
    [
        ("said", {"think": True}, MissingCapability),
        ("said", {"tools": [WEATHER]}, MissingCapability),
        ("said", {"messages": [{**HI[0], "images": [b"\x89PNG"]}]}, MissingCapability),
        ("vectors", {}, MissingCapability),
        ("said", {"format": "xml"}, InvalidOption),
        ("said", {"think": "hard"}, InvalidOption),
        ("said", {"options": {"seed": "x"}}, InvalidOption),
        ("said", {"tools": [{}]}, InvalidOption),
        ("said", {"messages": [{"role": "user", "content": "x" * 4000}]}, ContextLengthExceeded),
    ],
)
def test_an_error_is_the_same_in_process(
    client: Client, loaded: Any, model: str, arguments: dict[str, Any], kind: type[PunaError]
) -> None:
    arguments = {"messages": HI, **arguments}
    with pytest.raises(PunaError) as there:
        client.chat(model, **arguments)
    with pytest.raises(PunaError) as streamed:
        list(client.chat(model, stream=True, **arguments))
    with pytest.raises(PunaError) as here:
        loaded(model).chat(**arguments)
    assert type(here.value) is kind
    for error in (there.value, streamed.value):
        assert (type(error), str(error)) == (kind, str(here.value))


def test_calls(client: Client) -> None:
    calls = client.chat("calls", HI, tools=[WEATHER]).message.tool_calls
    assert calls is not None
    (call,) = calls
    assert (call.function.name, call.function.arguments) == ("weather", json.loads(CALL)["arguments"])


def test_tokens_are_the_same_in_process(client: Client, loaded: Any) -> None:
    tokens = client.tokenize("tiny", "höhe").tokens
    assert tokens == loaded("tiny").tokenize("höhe").tokens
    assert client.detokenize("tiny", tokens).text == loaded("tiny").detokenize(tokens).text == "höhe"


def test_managing_models(client: Client, tmp_path: Path, store: Path) -> None:
    names = {model.name for model in client.list().models}
    assert {"said:latest", "tiny:latest"} <= names
    assert client.show("thinks").capabilities == ["completion", "thinking"]
    assert client.show("tiny", verbose=True).model_info["tokenizer.ggml.tokens"][0] == "<s>"
    client.copy("said", "copied")
    assert client.generate("copied", "hi", keep_alive="1m").response == "onetwothreefour"
    client.delete("copied")
    with pytest.raises(ModelNotFound):
        client.show("copied")
    digest = client.create_blob(store.parent / "files" / "said.gguf")
    steps = list(client.create("made", files={"said.gguf": digest}, system="Be brief.", stream=True))
    assert steps[-1].status == "success"
    assert client.show("made").system == "Be brief."
    other = tmp_path / "other.bin"
    other.write_bytes(b"no model")
    digest = client.create_blob(other)
    with pytest.raises(PunaError):
        client.create("made", files={"x.gguf": digest})


def test_loading_and_unloading(client: Client) -> None:
    assert client.chat("thinks").done_reason == "load"
    assert "thinks:latest" in {model.name for model in client.ps().models}
    assert client.chat("thinks", keep_alive=0).done_reason == "unload"
    assert "thinks:latest" not in {model.name for model in client.ps().models}


def test_another_ends_a_request(client: Client, served: Served) -> None:
    reasons = []
    with client.generate("slow", "hi", stream=True) as stream:
        next(stream)

        def end() -> None:
            with Client(served.url) as other:
                other.cancel(stream.request_id)

        thread = threading.Thread(target=end)
        thread.start()
        try:
            reasons = [piece.done_reason for piece in stream if piece.done]
        except PunaError as error:
            reasons = [str(error)]
        thread.join()
    assert len(reasons) == 1
    with pytest.raises(PunaError, match="not found"):
        client.cancel("none")


def test_asynchronously(served: Served) -> None:
    async def work() -> list[str]:
        async with AsyncClient(served.url) as client:
            replies = await asyncio.gather(
                *(client.generate(name, "hi") for name in ("said", "thinks", "said"))
            )
            pieces = [piece.response async for piece in await client.generate("said", "hi", stream=True)]
            return [*(reply.response for reply in replies), "".join(pieces)]

    assert asyncio.run(work()) == ["onetwothreefour", "Blue.", "onetwothreefour", "onetwothreefour"]


def test_keys(store: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-secret-of-sixteen\n")
    keys.chmod(0o600)
    with serving(tmp_path, store, PUNA_API_KEY_FILE=str(keys)) as server:
        with Client(server.url) as nobody, pytest.raises(Unauthorized):
            nobody.list()
        with Client(server.url, api_key="a-secret-of-sixteen") as somebody:
            assert somebody.list().models
