"""Ollama's own Python client: what it does with models, and its asynchronous half."""

import asyncio
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import ollama
import pytest
from tests.clients.conftest import Managed
from tests.served import Served

HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
def client(managed: Managed) -> Iterator[ollama.Client]:
    with ollama.Client(host=managed.server.url) as client:
        yield client


def names(client: ollama.Client) -> set[str]:
    return {model.model or "" for model in client.list().models}


def test_a_model_made_of_another(client: ollama.Client) -> None:
    made = client.create(
        model="mario",
        from_="said",
        system="You are Mario.",
        template="{{ .System }}{{ .Prompt }}<|go|>",
        parameters={"num_predict": 3, "temperature": 0, "stop": ["x", "y"]},
        license=["first", "second"],
        messages=[{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}],
    )
    assert made.status == "success"
    assert client.chat("mario", HI).message.content == "onetwothree"
    shown = client.show("mario")
    assert shown.template == "{{ .System }}{{ .Prompt }}<|go|>"
    assert shown.license == "first\nsecond"
    assert shown.parameters is not None and shown.parameters.count("stop ") == 2
    assert shown.modelfile is not None
    assert "SYSTEM You are Mario." in shown.modelfile and "MESSAGE user Hi." in shown.modelfile
    assert shown.modified_at is not None and shown.modified_at.tzinfo is not None
    assert shown.details is not None
    assert (shown.details.family, shown.details.format, shown.details.parent_model) == (
        *("llama", "gguf", "said:latest"),
    )
    assert shown.modelinfo is not None and shown.modelinfo["general.architecture"] == "llama"
    assert shown.capabilities == ["completion"]
    assert client.delete("mario").status == "success"
    assert names(client) == {"said:latest"}


def test_a_model_made_of_a_file(client: ollama.Client, managed: Managed) -> None:
    digest = client.create_blob(managed.file)
    assert client.create_blob(managed.file) == digest
    steps = list(
        client.create("mine:v1", files={"said.gguf": digest}, template="{{ .Prompt }}<|go|>", stream=True)
    )
    statuses = [step.status for step in steps]
    assert "writing manifest" in statuses and statuses[-1] == "success"
    assert client.generate("mine:v1", "hi", options={"temperature": 0}).response == "onetwothreefour"
    assert client.delete("mine:v1").status == "success"


def test_copies_and_lists(client: ollama.Client, managed: Managed) -> None:
    before = datetime.now(UTC)
    assert client.copy("said", "user/copied:v2").status == "success"
    listed = {model.model: model for model in client.list().models}
    copied, said = listed["user/copied:v2"], listed["said:latest"]
    assert copied.digest == said.digest and copied.digest is not None and len(copied.digest) == 64
    assert copied.size == said.size and (said.size or 0) > managed.file.stat().st_size
    assert copied.modified_at is not None
    assert abs((copied.modified_at - before).total_seconds()) < 60
    assert copied.details is not None and copied.details.quantization_level == "F32"
    client.generate("user/copied:v2", "hi", keep_alive="10m")
    (running,) = client.ps().models
    assert running.expires_at is not None
    assert 500 < (running.expires_at - datetime.now(UTC)).total_seconds() <= 600
    assert running.context_length == 512 and running.size_vram == 0
    assert running.details is not None and running.details.family == "llama"
    client.delete("user/copied:v2")


Bars = dict[str, tuple[int, int]]


def drawn(parts: Iterable[ollama.ProgressResponse]) -> tuple[list[str], Bars]:
    """The lines and bars that the client's example draws; a bar never goes back, nor becomes another."""
    lines: list[str] = []
    bars: Bars = {}
    for part in parts:
        assert part.status
        if not part.digest:
            lines.append(part.status)
            continue
        assert part.total is not None
        done, total = bars.get(part.digest, (0, part.total))
        assert done <= (part.completed or 0) <= part.total == total
        bars[part.digest] = part.completed or 0, total
    return lines, bars


def test_pull_and_push(client: ollama.Client, managed: Managed) -> None:
    name = f"{managed.registry.address}/me/said:v1"
    client.copy("said", name)
    lines, bars = drawn(client.push(name, stream=True))
    assert (lines[0], lines[-2:]) == ("retrieving manifest", ["pushing manifest", "success"])
    # The weights, the template, the parameters and the configuration.
    assert len(bars) == 4 and all(done == total for done, total in bars.values())
    assert managed.file.stat().st_size in {total for _, total in bars.values()}
    client.delete(name)
    lines, pulled = drawn(client.pull(name, stream=True))
    # After the manifest the chat template is told.
    assert (lines[:3], lines[-1]) == (
        ["pulling manifest", "verifying sha256 digest", "writing manifest"],
        "success",
    )
    assert pulled == bars
    assert client.pull(name).status == client.push(name, insecure=True).status == "success"
    assert client.generate(name, "hi").response == "onetwothreefour"
    client.delete(name)


def test_errors(client: ollama.Client, managed: Managed) -> None:
    missing = f"{managed.registry.address}/me/none"

    def told(work: Any) -> tuple[int, str]:
        with pytest.raises(ollama.ResponseError) as caught:
            work()
        return caught.value.status_code, caught.value.error

    assert told(lambda: client.show("nix")) == (404, "model 'nix:latest' not found")
    assert told(lambda: client.delete("nix")) == (404, "model 'nix' not found")
    assert told(lambda: client.copy("nix", "x")) == (404, 'model "nix" not found')
    assert told(lambda: client.embed("nix", "x")) == (404, 'model "nix" not found, try pulling it first')
    assert told(lambda: client.generate("nix", "x")) == (404, "model 'nix' not found")
    assert told(lambda: client.generate("said", "x", suffix="y"))[1].endswith("does not support insert")
    assert told(lambda: client.generate("said", "x", raw=True, system="y")) == (
        *(400, "raw mode does not support template, system, or context"),
    )
    assert told(lambda: client.create("x")) == (400, "neither 'from' or 'files' was specified")
    assert told(lambda: client.pull("a//b")) == (400, "invalid model name")
    assert told(lambda: client.pull(missing)) == (404, "pull model manifest: file does not exist")
    # What a stream has begun with cannot be taken back; the client gives such errors no status.
    assert told(lambda: list(client.pull(missing, stream=True))) == (
        *(-1, "pull model manifest: file does not exist"),
    )
    assert told(lambda: client.systemone("said", "x", {}))[0] == 404


def test_an_answer_that_is_ended_from_elsewhere(served: Served) -> None:
    with ollama.Client(host=served.url, headers={"X-Request-Id": "from-elsewhere"}) as client:
        answer = client.generate("slow", "hi", stream=True, options={"num_predict": 4000})
        next(answer)
        assert served.ask("DELETE", "/api/requests/from-elsewhere").status == 200
        with pytest.raises(ollama.ResponseError, match="request canceled"):
            list(answer)


def test_a_server_that_is_not_there() -> None:
    with ollama.Client(host="http://127.0.0.1:1") as client, pytest.raises(ConnectionError):
        client.list()


def test_the_asynchronous_client(managed: Managed) -> None:
    async def work() -> dict[str, Any]:
        name = f"{managed.registry.address}/me/async"
        async with ollama.AsyncClient(host=managed.server.url) as client:
            created = await client.create(model=name, from_="said", system="Be kind.")
            pieces = [piece.response async for piece in await client.generate("said", "hi", stream=True)]
            whole, chat = await asyncio.gather(client.generate("said", "hi"), client.chat("said", HI))
            pushed = [part.status async for part in await client.push(name, stream=True)]
            await client.delete(name)
            pulled = [part.status async for part in await client.pull(name, stream=True)]
            await client.copy(name, "again")
            shown, listed, running = await client.show("again"), await client.list(), await client.ps()
            embedded = await client.embed("said", ["a", "b"])
            for model in (name, "again"):
                await client.delete(model)
            with pytest.raises(ollama.ResponseError) as caught:
                await client.show("again")
        return locals()

    found = asyncio.run(work())
    assert found["created"].status == "success"
    assert found["pieces"] == ["one", "two", "three", "four", ""]
    assert found["whole"].response == found["chat"].message.content == "onetwothreefour"
    assert found["pushed"][-1] == found["pulled"][-1] == "success"
    assert "SYSTEM Be kind." in found["shown"].modelfile
    assert {"said:latest", "again:latest"} <= {model.model for model in found["listed"].models}
    assert [model.size > 0 for model in found["running"].models] == [True]
    assert len(found["embedded"].embeddings) == 2
    assert found["caught"].value.status_code == 404
