"""Errors that a server tells of, in Puna's classes."""

import asyncio
import socket

import pytest
from tests.client.played_server import Played, PlayedServer, document, lines
from tests.client.transcripts import chat_piece, generate_piece

from puna.client import AsyncClient, Client
from puna.client.answers import error_of
from puna.errors import (
    ContextLengthExceeded,
    InvalidOption,
    MissingCapability,
    ModelNotFound,
    Overloaded,
    PunaError,
    ServerError,
    ServerUnreachable,
    Unauthorized,
)

HI = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, "missing request body", InvalidOption),
        (400, "model is required", InvalidOption),
        (404, "model 'x' not found", ModelNotFound),
        (404, 'model "x" not found, try pulling it first', ModelNotFound),
        (500, "pull model manifest: file does not exist", ModelNotFound),
        (400, '"tiny" does not support thinking', MissingCapability),
        (400, "registry.ollama.ai/library/tiny:latest does not support tools", MissingCapability),
        (401, "unauthorized", Unauthorized),
        (403, "forbidden", Unauthorized),
        (503, "server busy, please try again.  maximum pending requests exceeded", Overloaded),
        (500, "internal error, request req_1", ServerError),
        (507, "there is no room", ServerError),
        (499, "request canceled", ServerError),
    ],
)
def test_a_status_and_a_text(
    server: PlayedServer, client: Client, status: int, text: str, kind: type[PunaError]
) -> None:
    server.play("POST", "/api/chat", document({"error": text}, status))
    for stream in (False, True):
        with pytest.raises(PunaError) as raised:
            list(client.chat("tiny", HI, stream=True)) if stream else client.chat("tiny", HI)
        assert (type(raised.value), str(raised.value)) == (kind, text)
        if isinstance(raised.value, ServerError):
            assert raised.value.status == status


def test_the_same_error_as_in_process() -> None:
    for original in (
        ContextLengthExceeded(5000, 4096),
        MissingCapability(["thinking"], "Pull the model again", '"qwen3"'),
        MissingCapability(["tools", "insert"], subject="registry.ollama.ai/library/tiny:latest"),
        MissingCapability(["embedding"]),
    ):
        text = original.detail if isinstance(original, MissingCapability) else str(original)
        again = error_of(400, text)
        assert (type(again), str(again), vars(again)) == (type(original), str(original), vars(original))


def test_when_to_ask_again(server: PlayedServer, client: Client) -> None:
    server.play("GET", "/api/tags", document({"error": "busy"}, 503, retry_after="17"))
    with pytest.raises(Overloaded) as raised:
        client.list()
    assert raised.value.retry_after == 17


def test_an_error_in_the_middle(server: PlayedServer, client: Client) -> None:
    server.play("POST", "/api/chat", lines(chat_piece("Bl"), {"error": "the runner has died"}))
    stream = client.chat("tiny", HI, stream=True)
    assert next(stream).message.content == "Bl"
    with pytest.raises(ServerError, match=r"^the runner has died$") as raised:
        next(stream)
    assert raised.value.status is None
    # What an answer says is no error.
    server.play("POST", "/api/generate", lines(generate_piece('{"error": "no"}')))
    (piece,) = client.generate("tiny", "hi", stream=True)
    assert piece.response == '{"error": "no"}'


def test_an_error_that_is_no_json(server: PlayedServer, client: Client) -> None:
    server.play("GET", "/api/tags", Played(502, (b"<html>Bad Gateway</html>",)))
    with pytest.raises(
        ServerError, match=r"^the server answered with status 502: '<html>Bad Gateway</html>'$"
    ):
        client.list()


def test_replies_have_a_limit(server: PlayedServer, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of streams too, where the server complains at length."""
    monkeypatch.setattr("puna.client.answers.MAX_REPLY", 1 << 20)
    long = Played(500, (bytes(1 << 20), b"x"))
    server.play("GET", "/api/tags", long)
    server.play("POST", "/api/chat", long)

    async def stream() -> None:
        async with AsyncClient(server.url) as other:
            await other.chat("tiny", HI, stream=True)

    for ask in (client.list, lambda: client.chat("tiny", HI, stream=True), lambda: asyncio.run(stream())):
        with pytest.raises(ServerUnreachable, match=r"^the server's reply is longer than 1 MiB$"):
            ask()


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but it does not listen
        port = taken.getsockname()[1]
        with (
            Client(f"127.0.0.1:{port}") as client,
            pytest.raises(
                ServerUnreachable, match=rf"could not connect to the server at http://127\.0\.0\.1:{port}: "
            ),
        ):
            client.list()


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with (
            Client(f"127.0.0.1:{port}", timeout=0.1) as client,
            pytest.raises(ServerUnreachable, match=r"has sent nothing for 0\.1 seconds"),
        ):
            client.list()


def test_certificates_that_are_none() -> None:
    with pytest.raises(InvalidOption, match="not a file of certificates"):
        Client("https://127.0.0.1", verify="/dev/null/none")
