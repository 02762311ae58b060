"""The client against transcripts: what it asks for, and what it makes of what comes back."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
from tests.client.played_server import Played, PlayedServer, document, lines
from tests.client.transcripts import (
    CHAT,
    CHAT_WHOLE,
    GENERATE,
    GENERATE_WHOLE,
    PULL,
    TAGS,
    chat_piece,
)

from puna import __version__
from puna.client import Client, Message
from puna.client.arguments import GivenMessage
from puna.client.replies import Function, ToolCall
from puna.errors import InvalidOption, ModelNotFound, ServerUnreachable
from puna.sampling.grammar import Grammar


def test_a_whole_answer(server: PlayedServer, client: Client) -> None:
    server.play("POST", "/api/generate", GENERATE_WHOLE)
    reply = client.generate("tiny", "why?", options={"seed": 7}, keep_alive="10m", system=None)
    assert server.last.body == {
        "model": "tiny",
        "prompt": "why?",
        "options": {"seed": 7},
        "keep_alive": "10m",
        "stream": False,
    }
    assert server.last.headers["authorization"] == "Bearer secret"
    assert server.last.headers["content-type"] == "application/json"
    assert server.last.headers["user-agent"] == f"puna/{__version__}"
    assert (reply.response, reply.done, reply.done_reason) == ("Blue", True, "stop")
    assert (reply.total_duration, reply.eval_count, reply.context) == (5 * 10**9, 3, [1, 2])


def test_an_answer_in_pieces(server: PlayedServer, client: Client) -> None:
    server.play("POST", "/api/generate", GENERATE)
    pieces = list(client.generate("tiny", "why?", stream=True))
    assert server.last.body["stream"] is True
    assert [piece.response for piece in pieces] == ["Bl", "ue", ""]
    assert [piece.done for piece in pieces] == [False, False, True]


def test_a_conversation(server: PlayedServer, client: Client) -> None:
    server.play("POST", "/api/chat", CHAT_WHOLE)
    call = ToolCall(function=Function(name="f", arguments={"x": 1}))
    messages: list[GivenMessage] = [
        {"role": "user", "content": "hi"},
        Message(role="assistant", tool_calls=[call]),
    ]
    reply = client.chat(
        "tiny", messages, think="high", format={"type": "object"}, tools=[{"type": "function"}]
    )
    assert server.last.body == {
        "model": "tiny",
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
        ],
        "think": "high",
        "format": {"type": "object"},
        "tools": [{"type": "function"}],
        "stream": False,
    }
    assert (reply.message.role, reply.message.content, reply.message.thinking) == ("assistant", "Blue", "Hmm")


def test_calls_in_an_answer(server: PlayedServer, client: Client) -> None:
    calls = [{"id": "call_1", "function": {"index": 0, "name": "f", "arguments": {"b": [1], "a": None}}}]
    server.play("POST", "/api/chat", lines(chat_piece("", tool_calls=calls)))
    (piece,) = client.chat("tiny", [{"role": "user", "content": "hi"}], stream=True)
    assert piece.message.tool_calls is not None
    (call,) = piece.message.tool_calls
    assert (call.id, call.function.name, list(call.function.arguments.items())) == (
        "call_1",
        "f",
        [("b", [1]), ("a", None)],
    )


def test_pictures(server: PlayedServer, client: Client, tmp_path: Path) -> None:
    server.play("POST", "/api/chat", CHAT_WHOLE)
    server.play("POST", "/api/generate", GENERATE_WHOLE)
    (tmp_path / "cat.png").write_bytes(b"\x89PNG")
    spelled = base64.b64encode(b"\x89PNG").decode()
    for image in (b"\x89PNG", tmp_path / "cat.png", str(tmp_path / "cat.png"), spelled):
        client.chat("tiny", [{"role": "user", "content": "hi", "images": [image]}])
        assert server.last.body["messages"][0]["images"] == [spelled]
        client.generate("tiny", "hi", images=[image])
        assert server.last.body["images"] == [spelled]
    with pytest.raises(InvalidOption, match="cannot read the picture"):
        client.generate("tiny", "hi", images=[tmp_path / "dog.png"])
    with pytest.raises(InvalidOption, match="neither the path of a file nor base64"):
        client.generate("tiny", "hi", images=["dog.png"])
    with pytest.raises(InvalidOption, match="not int"):
        client.generate("tiny", "hi", images=[cast(Any, 1)])


def test_unloading(server: PlayedServer, client: Client) -> None:
    server.play("POST", "/api/generate", document({"done": True, "done_reason": "unload"}))
    client.unload("tiny")
    assert server.last.body == {"model": "tiny", "keep_alive": 0, "stream": False}
    client.unload("tiny", force=True)
    assert server.last.body["force"] is True


def test_grammars(server: PlayedServer, client: Client) -> None:
    server.play("POST", "/api/chat", CHAT_WHOLE)
    server.play("POST", "/api/generate", GENERATE_WHOLE)
    described = {"type": "grammar", "grammar": 'root ::= "a"', "syntax": "gbnf"}
    for grammar in (described, Grammar.gbnf('root ::= "a"')):
        client.generate("tiny", "hi", grammar=grammar)
        assert server.last.body["grammar"] == described
        client.chat("tiny", [{"role": "user", "content": "hi"}], grammar=grammar)
        assert server.last.body["grammar"] == described


def test_vectors_and_tokens(server: PlayedServer, client: Client) -> None:
    server.play(
        "POST", "/api/embed", document({"model": "m", "embeddings": [[0.6, 0.8]], "prompt_eval_count": 2})
    )
    assert client.embed("m", ["a"], dimensions=2, truncate=False).embeddings == [[0.6, 0.8]]
    assert server.last.body == {"model": "m", "input": ["a"], "dimensions": 2, "truncate": False}
    server.play("POST", "/api/tokenize", document({"tokens": [1, 2]}))
    assert client.tokenize("m", "hi").tokens == [1, 2]
    server.play("POST", "/api/detokenize", document({"text": "hi"}))
    assert client.detokenize("m", [1, 2]).text == "hi"
    assert server.last.body == {"model": "m", "tokens": [1, 2]}


def test_managing_models(server: PlayedServer, client: Client) -> None:
    server.play("GET", "/api/tags", TAGS)
    (model,) = client.list().models
    assert (model.name, model.size, model.details.families, model.capabilities) == (
        "tiny:latest",
        4_700_000_000,
        None,
        ["completion"],
    )
    server.play("GET", "/api/ps", document({"models": [{"name": "tiny:latest", "size": 5, "size_vram": 2}]}))
    assert client.ps().models[0].size_vram == 2
    server.play("POST", "/api/show", document({"model_info": {"a": None}, "capabilities": ["vision"]}))
    assert client.show("tiny", verbose=True).model_info == {"a": None}
    assert server.last.body == {"model": "tiny", "verbose": True}
    server.play("POST", "/api/copy", Played(200, ()))
    client.copy("tiny", "mine")
    assert server.last.body == {"source": "tiny", "destination": "mine"}
    server.play("DELETE", "/api/delete", Played(200, ()))
    client.delete("mine")
    assert (server.last.method, server.last.body) == ("DELETE", {"model": "mine"})
    server.play("GET", "/api/version", document({"version": "0.35.0"}))
    assert client.version() == "0.35.0"
    server.play("DELETE", "/api/requests/req_1", Played(200, ()))
    client.cancel("req_1")


def test_progress(server: PlayedServer, client: Client) -> None:
    server.play("POST", "/api/pull", PULL, document({"status": "success"}))
    steps = list(client.pull("tiny", insecure=True, stream=True))
    assert server.last.body == {"model": "tiny", "insecure": True, "stream": True}
    assert [(step.status, step.completed, step.total) for step in steps] == [
        ("pulling manifest", 0, 0),
        ("pulling aabbccddeeff", 0, 100),
        ("pulling aabbccddeeff", 100, 100),
        ("success", 0, 0),
    ]
    assert client.pull("tiny").status == "success"
    server.play("POST", "/api/push", document({"status": "success"}))
    assert client.push("tiny").status == "success"


def test_a_new_model_and_its_files(server: PlayedServer, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" * 300_000)
    digest = digest_told_by_coreutils(path)
    server.play("HEAD", f"/api/blobs/{digest}", Played(404, ()), Played(200, ()))
    server.play("POST", f"/api/blobs/{digest}", Played(201, ()))
    told: list[int] = []
    assert client.create_blob(path, sent=told.append) == digest
    assert (server.last.method, server.last.content) == ("POST", path.read_bytes())
    assert server.last.headers["content-length"] == "1200000"
    assert sum(told) == 1_200_000
    asked = len(server.asked)
    assert client.create_blob(path) == digest
    assert len(server.asked) == asked + 1
    server.play("POST", "/api/create", document({"status": "success"}))
    client.create(
        "mine", files={"model.gguf": digest}, from_="base", messages=[Message(role="user", content="hi")]
    )
    assert server.last.body == {
        "model": "mine",
        "files": {"model.gguf": digest},
        "from": "base",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": False,
    }
    with pytest.raises(InvalidOption, match="cannot read"):
        client.create_blob(tmp_path / "no.gguf")


def digest_told_by_coreutils(path: Path) -> str:
    printed = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True).stdout
    return f"sha256:{printed.split()[0]}"


def test_a_stream_in_pieces_of_every_length(server: PlayedServer, client: Client) -> None:
    text = b"".join(CHAT.pieces).removesuffix(b"\n")
    for size in (1, 7, 100, len(text)):
        cut = tuple(text[start : start + size] for start in range(0, len(text), size))
        server.play("POST", "/api/chat", Played(200, cut))
        pieces = list(client.chat("tiny", [{"role": "user", "content": "hi"}], stream=True))
        assert "".join(piece.message.content for piece in pieces) == "Blue"
        assert pieces[-1].eval_count == 3


def test_leaving_a_stream_ends_the_request(server: PlayedServer, client: Client) -> None:
    server.play("POST", "/api/chat", Played(200, CHAT.pieces[:1], {"X-Request-Id": "req_9"}, waits=True))
    with client.chat("tiny", [{"role": "user", "content": "hi"}], stream=True) as stream:
        assert stream.request_id == "req_9"
        assert next(stream).message.thinking == "Hmm"
    assert server.left.wait(10)


def test_a_connection_that_breaks(server: PlayedServer, client: Client) -> None:
    server.play("POST", "/api/chat", Played(200, CHAT.pieces[:2], breaks=True))
    stream = client.chat("tiny", [{"role": "user", "content": "hi"}], stream=True)
    assert next(stream).message.thinking == "Hmm"
    assert next(stream).message.content == "Bl"
    with pytest.raises(ServerUnreachable, match=r"the connection to http://127\.0\.0\.1:\d+ broke: "):
        next(stream)


@pytest.mark.parametrize("wrong", [b"[1, 2]\n", b"{\n", b'{"done": "yes"}\n', b"\xff\xfe\n", b"[" * 100_000])
def test_what_is_no_reply(server: PlayedServer, client: Client, wrong: bytes) -> None:
    server.play("POST", "/api/chat", Played(200, (wrong,)))
    expected = "the server's reply to /api/chat cannot be understood"
    with pytest.raises(ServerUnreachable, match=expected):
        client.chat("tiny", [{"role": "user"}])
    with pytest.raises(ServerUnreachable, match=expected):
        list(client.chat("tiny", [{"role": "user"}], stream=True))


def test_arguments_that_there_are_not(client: Client) -> None:
    wrong: dict[str, Any] = {"temperature": 1}
    with pytest.raises(TypeError, match="unexpected argument 'temperature'"):
        client.generate("tiny", "hi", **wrong)
    with pytest.raises(InvalidOption, match="cannot be written in JSON"):
        client.generate("tiny", "hi", options={"seed": object()})
    given: Any = ["hi"]
    with pytest.raises(InvalidOption, match="a message must be a Message or a mapping, not str"):
        client.chat("tiny", given)


def test_the_configured_server_is_asked(server: PlayedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", f"{server.url}/behind/a/proxy/")
    monkeypatch.setenv("PUNA_API_KEY", "from the environment")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server.play("GET", "/behind/a/proxy/api/version", document({"version": "1"}))
    with Client() as client:
        assert client.version() == "1"
    assert server.last.headers["authorization"] == "Bearer from the environment"


def test_a_redirect_is_not_followed(server: PlayedServer, client: Client) -> None:
    server.play("GET", "/api/tags", Played(302, (), {"Location": "http://elsewhere.invalid/"}))
    with pytest.raises(Exception, match="status 302"):
        client.list()
    assert json.dumps([asked.path for asked in server.asked]) == '["/api/tags"]'


def test_a_model_that_there_is_not(server: PlayedServer, client: Client) -> None:
    server.play("POST", "/api/show", document({"error": "model 'x:latest' not found"}, 404))
    with pytest.raises(ModelNotFound, match=r"^model 'x:latest' not found$"):
        client.show("x")
