"""The asynchronous client: the same, while others run."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.client.played_server import Played, PlayedServer, document
from tests.client.transcripts import CHAT, CHAT_WHOLE, GENERATE_WHOLE, PULL, TAGS

from puna.client import AsyncClient, Client
from puna.errors import ModelNotFound, ServerUnreachable

HI = [{"role": "user", "content": "hi"}]


def asked(server: PlayedServer, work: Callable[[AsyncClient], Awaitable[None]]) -> None:
    async def run() -> None:
        async with AsyncClient(server.url, api_key="secret") as client:
            await work(client)

    asyncio.run(run())


def test_it_has_the_methods_of_the_other() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(value).parameters)
            for name, value in vars(kind).items()
            if callable(value) and not name.startswith("_")
        }

    assert methods(AsyncClient) == methods(Client)


def test_answers(server: PlayedServer) -> None:
    server.play("POST", "/api/chat", CHAT_WHOLE, CHAT)
    server.play("POST", "/api/generate", GENERATE_WHOLE)
    server.play("GET", "/api/tags", TAGS)
    server.play("POST", "/api/pull", PULL)

    async def work(client: AsyncClient) -> None:
        assert (await client.chat("tiny", HI)).message.content == "Blue"
        pieces = [piece.message.content async for piece in await client.chat("tiny", HI, stream=True)]
        assert pieces == ["", "Bl", "ue", ""]
        assert (await client.generate("tiny", "hi", raw=True)).response == "Blue"
        assert server.last.body == {"model": "tiny", "prompt": "hi", "raw": True, "stream": False}
        assert (await client.list()).models[0].name == "tiny:latest"
        assert [step.status async for step in await client.pull("tiny", stream=True)][-1] == "success"

    asked(server, work)


def test_errors(server: PlayedServer) -> None:
    server.play("POST", "/api/chat", document({"error": "model 'x' not found"}, 404))
    server.play("POST", "/api/generate", Played(200, CHAT.pieces[:1], breaks=True))

    async def work(client: AsyncClient) -> None:
        with pytest.raises(ModelNotFound):
            await client.chat("x", HI)
        with pytest.raises(ModelNotFound):
            await client.chat("x", HI, stream=True)
        stream = await client.generate("tiny", "hi", stream=True)
        await anext(stream)
        with pytest.raises(ServerUnreachable, match="broke"):
            await anext(stream)

    asked(server, work)


def test_a_file(server: PlayedServer, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" * 300_000)

    async def work(client: AsyncClient) -> None:
        told: list[int] = []
        with pytest.raises(ModelNotFound):
            await client.create_blob(path)
        digest = server.last.path.removeprefix("/api/blobs/")
        server.play("POST", f"/api/blobs/{digest}", Played(201, ()))
        assert await client.create_blob(path, sent=told.append) == digest
        assert server.last.content == path.read_bytes()
        assert sum(told) == 1_200_000

    asked(server, work)


def test_a_cancelled_task_ends_the_request(server: PlayedServer) -> None:
    server.play("POST", "/api/chat", Played(200, CHAT.pieces[:1], waits=True))

    async def work(client: AsyncClient) -> None:
        began = asyncio.Event()

        async def read() -> None:
            async for _ in await client.chat("tiny", HI, stream=True):
                began.set()

        task = asyncio.create_task(read())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.left.wait, 10)

    asked(server, work)
