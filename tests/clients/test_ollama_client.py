"""Ollama's own Python client against `puna serve`."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import ollama
import pytest
from pydantic import BaseModel, ConfigDict
from tests.served import Served

HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
def client(served: Served) -> Iterator[ollama.Client]:
    client = ollama.Client(host=served.url)
    yield client
    client._client.close()


def test_chat(client: ollama.Client) -> None:
    reply = client.chat("said", HI)
    assert (reply.message.role, reply.message.content) == ("assistant", "onetwothreefour")
    assert (reply.model, reply.done, reply.done_reason, reply.eval_count) == ("said", True, "stop", 4)
    assert reply.created_at is not None
    assert datetime.fromisoformat(reply.created_at).tzinfo == UTC


def test_chat_in_pieces(client: ollama.Client) -> None:
    *pieces, last = client.chat("said", HI, stream=True)
    assert [piece.message.content for piece in pieces] == ["one", "two", "three", "four"]
    assert last.done and last.total_duration


def test_chat_from_several_tasks(served: Served) -> None:
    async def ask(client: ollama.AsyncClient) -> str:
        texts = [piece.message.content or "" async for piece in await client.chat("said", HI, stream=True)]
        return "".join(texts)

    async def several() -> list[str]:
        client = ollama.AsyncClient(host=served.url)
        try:
            return await asyncio.gather(*(ask(client) for _ in range(4)))
        finally:
            await client._client.aclose()

    assert asyncio.run(several()) == ["onetwothreefour"] * 4


def test_generate(client: ollama.Client) -> None:
    reply = client.generate("said", "hi", options={"num_predict": 2, "temperature": 0.0})
    assert (reply.response, reply.done_reason) == ("onetwo", "length")
    assert reply.context
    again = client.generate("said", "more", context=reply.context)
    assert again.context is not None and again.context[: len(reply.context)] == reply.context
    pieces = [piece.response or "" for piece in client.generate("said", "hi", stream=True)]
    assert "".join(pieces) == "onetwothreefour"
    assert client.generate("fills", "def f(", suffix="return").response == "onetwothreefour"
    assert client.generate("said", "hi<|go|>", raw=True).response == "onetwothreefour"


def test_all_options_of_the_client(client: ollama.Client) -> None:
    options = ollama.Options(
        numa=False,
        num_ctx=512,
        num_batch=64,
        num_gpu=-1,
        main_gpu=-1,
        low_vram=False,
        f16_kv=True,
        logits_all=False,
        vocab_only=False,
        use_mmap=True,
        use_mlock=False,
        embedding_only=False,
        num_thread=1,
        num_keep=0,
        seed=3,
        num_predict=50,
        top_k=40,
        top_p=0.9,
        tfs_z=1.0,
        typical_p=1.0,
        repeat_last_n=64,
        temperature=0.0,
        repeat_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        mirostat=0,
        mirostat_tau=5.0,
        mirostat_eta=0.1,
        penalize_newline=False,
        stop=["four"],
    )
    assert client.generate("said", "hi", options=options).response == "onetwothree"


def test_thinking(client: ollama.Client) -> None:
    reply = client.chat("thinks", HI, think=True)
    assert (reply.message.thinking, reply.message.content) == ("Hmm…\n", "Blue.")
    assert client.generate("thinks", "hi", think="low").thinking == "Hmm…\n"
    pieces = [piece.message for piece in client.chat("thinks", HI, think=True, stream=True)]
    assert "".join(piece.thinking or "" for piece in pieces) == "Hmm…\n"
    assert "".join(piece.content or "" for piece in pieces) == "Blue."
    completed = list(client.generate("thinks", "hi", think=True, stream=True))
    assert "".join(piece.thinking or "" for piece in completed) == "Hmm…\n"
    assert client.chat("said", HI, think=False).message.thinking is None


def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Args:
        a: the first.
        b: the second.
    """
    return a + b


def test_tools(client: ollama.Client) -> None:
    def weather(city: str) -> str:
        """The weather.

        Args:
            city: where.
        """
        return f"rain in {city}"

    messages: list[Any] = list(HI)
    reply = client.chat("calls", messages, tools=[weather])
    assert reply.message.tool_calls is not None
    (call,) = reply.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", {"city": "Oslo"})
    result = weather(**call.function.arguments)
    messages += [reply.message, {"role": "tool", "content": result, "tool_name": "weather"}]
    assert client.chat("calls", messages, tools=[weather]).done
    # The example of the documentation: several functions, and the answer's message goes back as it is.
    available: dict[str, Callable[..., Any]] = {"weather": weather, "add": add}
    reply = client.chat("calls", HI, tools=[weather, add])
    results = [
        available[call.function.name](**call.function.arguments) for call in reply.message.tool_calls or ()
    ]
    assert results == ["rain in Oslo"]
    pieces = list(client.chat("calls", HI, tools=[weather], stream=True))
    assert [call.function.name for piece in pieces for call in piece.message.tool_calls or ()] == ["weather"]


class Answer(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="forbid")
    ok: bool


def test_structured_answers(client: ollama.Client) -> None:
    reply = client.chat("said", HI, format=Answer.model_json_schema(), options={"num_predict": 100})
    Answer.model_validate_json(reply.message.content or "")
    pieces = client.chat("said", HI, format=Answer.model_json_schema(), stream=True)
    Answer.model_validate_json("".join(piece.message.content or "" for piece in pieces))
    written = client.generate("said", "hi", format=Answer.model_json_schema())
    Answer.model_validate_json(written.response or "")
    # The scripted model goes on for ever with anything but its script.
    free = client.generate("said", "hi", format="json", options={"num_predict": 20})
    assert (free.response or "").startswith("{")


def test_log_probabilities(client: ollama.Client) -> None:
    reply = client.chat("said", HI, logprobs=True, top_logprobs=1)
    assert reply.logprobs is not None
    assert [entry.token for entry in reply.logprobs][:4] == ["one", "two", "three", "four"]
    assert reply.logprobs[0].top_logprobs is not None and len(reply.logprobs[0].top_logprobs) == 1


def test_vectors(client: ollama.Client) -> None:
    reply = client.embed("tiny", ["hi", "there"])
    assert [len(vector) for vector in reply.embeddings] == [64, 64]
    assert len(client.embeddings("tiny", "hi").embedding) == 64


def test_models(client: ollama.Client) -> None:
    client.chat("said", HI, keep_alive="5m")
    running = {model.model: model for model in client.ps().models}
    assert running["said:latest"].size and running["said:latest"].expires_at
    assert "said:latest" in {model.model for model in client.list().models}
    shown = client.show("thinks")
    assert shown.capabilities is not None and {"completion", "thinking"} <= {*shown.capabilities}
    assert client.generate("said", keep_alive=0).done_reason == "unload"


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ({"model": "nix"}, 404, "model 'nix' not found"),
        ({"model": "vectors"}, 400, '"vectors" does not support chat'),
        ({"model": "said", "think": True}, 400, '"said" does not support thinking'),
        ({"model": "said", "options": {"num_ctx": 0}}, 400, "num_ctx must be a whole number from 1"),
    ],
)
def test_errors(client: ollama.Client, arguments: dict[str, Any], status: int, text: str) -> None:
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError) as caught:
            list(client.chat(messages=HI, stream=stream, **arguments))
        assert caught.value.status_code == status
        assert caught.value.error.startswith(text)
