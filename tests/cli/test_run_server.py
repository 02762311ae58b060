"""`puna run` on a server and in its own process: the same on the screen."""

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.client.played_server import Played, document, lines, playing
from tests.client.transcripts import chat_piece, generate_piece
from tests.served import Served, serving
from tests.served_models import fill

PNG = b"\x89PNG\r\n\x1a\n and more"

Puna = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("served") / "models"
    fill(store)
    return store


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Served]:
    with serving(store.parent, store) as server:
        yield server


@pytest.fixture
def both(puna: Puna, server: Served, store: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs a command with the server and without, and gives what both have said."""

    def run(*arguments: str | Path, **more: str) -> "subprocess.CompletedProcess[str]":
        here = puna(*arguments, PUNA_MODELS=str(store), **more)
        there = puna(*arguments, PUNA_HOST=server.url, PUNA_MODELS=str(store.parent / "none"), **more)
        assert (there.returncode, there.stdout, there.stderr) == (here.returncode, here.stdout, here.stderr)
        return there

    return run


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["said", "hi"], "onetwothreefour\n"),
        (["thinks", "hi"], "Thinking...\nHmm…\n...done thinking.\n\nBlue.\n"),
        (["thinks", "hi", "--hidethinking"], "Blue.\n"),
        (["thinks", "hi", "--think=false"], None),
        (["told", "hi"], "onetwothreefour\n"),
        (["told", "hi", "--system", "be brief"], "onetwothreefour\n"),
        (["told", "hi", "--system", ""], "onetwothreefour\n"),
        (["tiny", "hi", "--system", "", "--raw", "--num-predict", "9"], None),
        (["said", "hi", "-o", "stop=three"], "onetwo\n"),
        (["said", "hi", "--num-predict", "1"], "one\n"),
        (["tiny", "hi", "--seed", "7", "--num-predict", "40"], None),
        (["tiny", "hi", "--seed", "7", "--num-predict", "40", "--raw"], None),
        (["thinks", "hi", "--format", '{"const": 1}', "--think=false"], None),
        (["said", "hi", "--choice", "yes"], "yes\n"),
        (["said", "hi", "--regex", "(ab){2}c"], "ababc\n"),
        (["said", "hi", "--grammar", 'root ::= "x" "y"'], "xy\n"),
        (["said", "hi", "--system", "", "--choice", "yes"], "yes\n"),
        (["calls", "hi"], None),
    ],
)
def test_the_same_answer(both: Puna, arguments: list[str], shown: str | None) -> None:
    result = both("run", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert shown is None or result.stdout == shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["said", "hi", "--think"],
        ["tiny", "x" * 100, "--num-ctx", "16"],
        ["vectors"],
        ["tiny", "hi", "--system", "be brief", "--raw"],
    ],
)
def test_the_same_error(both: Puna, arguments: list[str]) -> None:
    result = both("run", *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")


def test_timings_of_a_server(puna: Puna, server: Served) -> None:
    result = puna("run", "said", "--verbose", "hi", PUNA_HOST=server.url)
    labels = [line[:22].strip() for line in result.stderr.splitlines()]
    assert labels[0] == "total duration:"
    assert labels[-3:] == ["eval count:", "eval duration:", "eval rate:"]


def test_a_file_runs_here(puna: Puna, server: Served, store: Path, chat_model: Path) -> None:
    there = {"PUNA_HOST": server.url, "PUNA_MODELS": str(store)}
    assert puna("run", chat_model, "--num-predict", "1", "hi", **there).returncode == 0
    refused = puna("run", "--server", chat_model, "hi", **there)
    assert refused.stderr.startswith("Error: a server cannot be given the file ")


def test_a_server_that_passes_grammars_over(puna: Puna) -> None:
    """Ollama's; it answers without an id."""
    with playing() as server:
        server.play("GET", "/api/version", document({"version": "9.9.9"}))
        server.play("POST", "/api/show", document({"capabilities": ["completion"]}))
        server.play("POST", "/api/generate", lines(generate_piece("Blue.")))
        result = puna("run", "m", "hi", "--choice", "red", PUNA_HOST=server.url)
        assert server.last.body["grammar"] == {"type": "choice", "choice": ["red"]}
        assert (result.returncode, result.stdout, result.stderr) == (
            1,
            "",
            "Error: this server keeps answers to --format only; say --local to run without it\n",
        )
        assert puna("run", "m", "hi", "--format", "json", PUNA_HOST=server.url).stdout == "Blue.\n"
        assert server.last.body["format"] == "json"


def test_a_server_that_must_answer(puna: Puna) -> None:
    result = puna("run", "--server", "said", "hi")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: could not connect to the server at http://127.0.0.1:1: ")


def test_something_else_that_listens(puna: Puna, store: Path) -> None:
    with playing() as other:
        other.play("GET", "/api/version", Played(200, (b"<html>",)))
        result = puna("run", "said", "hi", PUNA_HOST=other.url, PUNA_MODELS=str(store))
    assert (result.returncode, result.stdout) == (0, "onetwothreefour\n")
    assert result.stderr.startswith("Warning: the server's reply to /api/version cannot be understood")


def test_what_only_a_server_has(puna: Puna) -> None:
    """Calls, vectors, and a model that is fetched, as a transcript tells it."""
    with playing() as server:
        server.play("GET", "/api/version", document({"version": "9.9.9"}))
        server.play("POST", "/api/show", document({"error": "model 'm' not found"}, 404), document({}))
        pulled = lines({"status": "pulling manifest"}, {"status": "success"})
        server.play("POST", "/api/pull", pulled)
        call = {"function": {"index": 0, "name": "f", "arguments": {"x": "é"}}}
        message = chat_piece("", tool_calls=[call])["message"]
        server.play("POST", "/api/generate", lines({"tool_calls": message["tool_calls"], "done": True}))
        result = puna("run", "m", "hi", "--keepalive", "10m", PUNA_HOST=server.url)
        assert result.stdout == (
            'Model called a non-existent function \'f()\' with arguments: {"x": "é"}\n\n'
        )
        assert result.stderr == "pulling manifest\nsuccess\n"
        assert server.last.body["keep_alive"] == "10m"
        server.play("POST", "/api/show", document({"capabilities": ["embedding"]}))
        server.play("POST", "/api/embed", document({"embeddings": [[0.6, -0.8]]}))
        asked = ("--dimensions", "2", "--truncate", "true", "--keepalive", "10m")
        result = puna("run", "m", "hi", *asked, PUNA_HOST=server.url)
        assert json.loads(result.stdout) == [0.6, -0.8]
        sent = {"model": "m", "input": ["hi"], "dimensions": 2, "truncate": True, "keep_alive": "10m"}
        assert server.last.body == sent


def test_without_a_system_message(puna: Puna, tmp_path: Path) -> None:
    """An empty one is said in a conversation, which has the pictures too; a raw prompt has none anyway."""
    (tmp_path / "cat.png").write_bytes(PNG)
    with playing() as server:
        server.play("GET", "/api/version", document({"version": "9.9.9"}))
        server.play("POST", "/api/show", document({"capabilities": ["completion", "vision"]}))
        server.play("POST", "/api/chat", lines(chat_piece("A cat.")))
        server.play("POST", "/api/generate", lines(generate_piece("A cat.")))
        asked = ("run", "m", "--system", "", "what is ./cat.png")
        assert puna(*asked, PUNA_HOST=server.url).stdout == "A cat.\n"
        image = base64.b64encode(PNG).decode()
        assert server.last.body["messages"] == [
            {"role": "system", "content": ""},
            {"role": "user", "content": "what is", "images": [image]},
        ]
        assert puna(*asked, "--raw", PUNA_HOST=server.url).stdout == "A cat.\n"
        sent = server.last.body
        assert (sent["prompt"], sent["raw"], sent["images"]) == ("what is", True, [image])
        assert "system" not in sent


def test_a_model_that_neither_has(puna: Puna, server: Served) -> None:
    result = puna("run", "none", "hi", PUNA_HOST=server.url)
    assert (result.returncode, result.stdout) == (1, "")
    assert "model 'none' not found on the server, and cannot be pulled: " in result.stderr


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("a/../b", "invalid model name: '..' cannot be a namespace"),
        ("pypi://", "invalid package name '' after pypi://"),
        (
            "folder",
            "model 'folder:latest' not found on the server; to run a file of that name, write ./folder",
        ),
    ],
)
def test_what_is_no_model_of_a_server(
    puna: Puna, server: Served, tmp_path: Path, name: str, error: str
) -> None:
    (tmp_path / "folder").mkdir()
    result = puna("run", name, "hi", PUNA_HOST=server.url)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {error}")


def test_an_answer_that_breaks_off(puna: Puna) -> None:
    with playing() as server:
        server.play("GET", "/api/version", document({"version": "9.9.9"}))
        server.play("POST", "/api/show", document({"capabilities": ["completion"]}))
        server.play("POST", "/api/generate", lines({"response": "Bl"}, {"error": "the runner has died"}))
        result = puna("run", "m", "hi", PUNA_HOST=server.url)
    assert (result.returncode, result.stdout, result.stderr) == (1, "Bl", "Error: the runner has died\n")
