"""Commands about a server's models, and what of it they print."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.client.played_server import Played, document, playing
from tests.scripted_llama import write_scripted_llama
from tests.served import Served, serving
from tests.served_models import add_model, fill

from puna import __version__
from puna.cli.commands.ps import processor_text, row
from puna.client.replies import RunningModel
from puna.store.library import Library
from puna.store.model import read_model
from puna.store.name import parse_name

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
def there(puna: Puna, server: Served) -> Puna:
    """Runs a command with `--server`, and a store of its own that stays empty."""

    def run(name: str, *arguments: str | Path, **more: str) -> "subprocess.CompletedProcess[str]":
        return puna(name, "--server", *arguments, PUNA_HOST=server.url, **more)

    return run


def test_ps_and_stop(puna: Puna, server: Served) -> None:
    at = {"PUNA_HOST": server.url}
    assert puna("run", "said", "hi", "--keepalive", "-1", **at).returncode == 0
    header, line = puna("ps", **at).stdout.splitlines()
    assert header.split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    assert line.split()[0] == "said:latest"
    assert line.rstrip().endswith("512        Forever")
    assert "    100% CPU     " in line
    (told,) = json.loads(puna("ps", "--json", **at).stdout)["models"]
    assert (told["name"], told["context_length"]) == ("said:latest", 512)
    assert len(puna("ps", "th", **at).stdout.splitlines()) == 1
    assert (stopped := puna("stop", "said", **at)).returncode == 0, stopped.stderr
    assert len(puna("ps", **at).stdout.splitlines()) == 1
    with server.stream("/api/generate", {"model": "tiny", "prompt": "hi", "shift": True}) as running:
        assert json.loads(running.readline())["done"] is False
        assert puna("stop", "--force", "tiny", **at).returncode == 0
        assert json.loads(running.read().splitlines()[-1]) == {"error": "request canceled"}
    result = puna("stop", "none", **at)
    assert (result.returncode, result.stderr) == (1, 'Error: couldn\'t find model "none" to stop\n')


@pytest.mark.parametrize(
    ("size", "on_gpu", "text"),
    [
        (100, 0, "100% CPU"),
        (100, 100, "100% GPU"),
        (100, 52, "48%/52% CPU/GPU"),
        (100, 101, "Unknown"),
        (0, 0, "100% CPU"),
        (1000, 1, "100%/0% CPU/GPU"),
    ],
)
def test_where_a_model_computes(size: int, on_gpu: int, text: str) -> None:
    assert processor_text(size, on_gpu) == text


@pytest.mark.parametrize(
    ("expires", "text"),
    [
        (timedelta(minutes=4, seconds=30), "4 minutes from now"),
        (timedelta(days=365 * 100), "Forever"),
        (timedelta(seconds=-1), "Stopping..."),
    ],
)
def test_until_when(expires: timedelta, text: str) -> None:
    now = datetime(2026, 11, 26, 12, tzinfo=UTC)
    model = RunningModel(
        name="m:latest",
        size=993_000,
        digest="ab" * 32,
        context_length=4096,
        expires_at=(now + expires).isoformat(),
    )
    cells = ("m:latest", "abababababab", "993 KB", "100% CPU", "4096", text)
    assert row(model, now.timestamp()) == cells


def test_without_a_server(puna: Puna) -> None:
    for command in (["ps"], ["stop", "m"], ["list", "--server"]):
        result = puna(*command)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith("Error: could not connect to the server at http://127.0.0.1:1: ")
        assert result.stderr.endswith("; start one with: puna serve\n")


def test_a_server_s_models_are_shown_as_the_store_s(puna: Puna, there: Puna, store: Path) -> None:
    here = {"PUNA_MODELS": str(store)}
    # The ages, and so the widths, may change between the two.
    assert there("list").stdout.splitlines()[0].split() == puna("list", **here).stdout.splitlines()[0].split()
    assert len(there("list", "th").stdout.splitlines()) == 2
    for arguments in (["thinks"], ["told"], ["told", "--system"], ["told", "--modelfile"], ["told", "-v"]):
        assert there("show", *arguments).stdout == puna("show", *arguments, **here).stdout


def test_changing_a_server_s_models(there: Puna, store: Path, home: Path) -> None:
    assert there("cp", "said", "again").stdout == "copied 'said' to 'again'\n"
    assert Library(store).manifests.find(parse_name("again")) is not None
    assert there("rm", "again").stdout == "deleted 'again'\n"
    result = there("rm", "again")
    assert (result.returncode, result.stderr) == (1, "Error: model 'again' not found\n")
    result = there("cp", "again", "x")
    assert (result.returncode, result.stderr) == (1, 'Error: model "again" not found\n')
    assert there("show", "again").stderr == "Error: model 'again:latest' not found\n"
    assert [*home.rglob("*")] == []


def test_a_model_that_is_removed_here_leaves_the_memory_of_the_server(
    puna: Puna, server: Served, store: Path, tmp_path: Path
) -> None:
    at = {"PUNA_HOST": server.url, "PUNA_MODELS": str(store)}
    for number in range(2):
        path = write_scripted_llama(tmp_path / f"{number}.gguf", ("a", "bc", "de")[number:])
        add_model(Library(store), f"mine{number}", path)
        assert server.post("/api/generate", {"model": f"mine{number}", "keep_alive": -1}).status == 200
    result = puna("rm", "mine0", "a/../b", **at)
    assert (result.returncode, result.stdout) == (1, "deleted 'mine0'\n")
    assert result.stderr == "Error: invalid model name: '..' cannot be a namespace\n"
    assert loaded_by(server) & {"mine0:latest", "mine1:latest"} == {"mine1:latest"}
    assert puna("rm", "--local", "mine1", **at).returncode == 0
    assert "mine1:latest" in loaded_by(server)


def test_what_listens_here_need_not_be_a_server(puna: Puna, store: Path) -> None:
    with playing() as other:
        other.play("GET", "/api/ps", Played(200, (b"<html>",)))
        result = puna("rm", "none", PUNA_HOST=other.url, PUNA_MODELS=str(store))
    assert result.stderr == "Error: model 'none' not found\n"


def loaded_by(server: Served) -> set[str]:
    return {model["name"] for model in server.get("/api/ps").json["models"]}


def test_a_model_is_made_on_the_server_of_a_file_here(
    there: Puna, store: Path, chat_model: Path, tmp_path: Path, home: Path
) -> None:
    (tmp_path / "Modelfile").write_text(
        f"FROM {chat_model}\nSYSTEM Be brief.\nPARAMETER temperature 0\nPARAMETER stop x\nPARAMETER stop y\n"
        'MESSAGE user Hi\nLICENSE """Free"""\nTEMPLATE {{ .Prompt }}\n'
    )
    result = there("create", "mine")
    assert result.returncode == 0, result.stderr
    steps = result.stderr.splitlines()
    assert steps[:2] == ["gathering model components", "copying file chat.gguf"]
    assert steps[-1] == "success"
    model = read_model(Library(store), parse_name("mine"))
    assert model.path is not None and model.path.read_bytes() == chat_model.read_bytes()
    assert (model.system, model.template, model.licenses) == ("Be brief.", "{{ .Prompt }}", ("Free",))
    assert model.parameters == {"temperature": 0, "stop": ["x", "y"]}
    assert [(message.role, message.content) for message in model.messages] == [("user", "Hi")]
    # The server has the file now: it is not sent again.
    assert "copying" not in there("create", "mine2").stderr
    (tmp_path / "Modelfile").write_text("FROM mine\nSYSTEM Be long.\n")
    assert there("create", "mine3").returncode == 0
    assert read_model(Library(store), parse_name("mine3")).system == "Be long."
    (tmp_path / "Modelfile").write_text("FROM no/such.gguf\n")
    assert there("create", "mine4").returncode == 1
    assert [*home.rglob("*")] == []


def test_where_models_are_managed(puna: Puna, server: Served, store: Path) -> None:
    """On this machine the store is, whether a server answers or not; on another one the server is."""
    assert len(puna("list", PUNA_HOST=server.url).stdout.splitlines()) == 1
    assert len(puna("list", "--server", PUNA_HOST=server.url).stdout.splitlines()) > 1
    with playing() as other:
        other.play("GET", "/api/tags", document({"models": [{"name": "far:latest", "size": 5}]}))
        # A name that no resolver is asked about: the proxy is the other machine.
        far = {"PUNA_HOST": "http://far.example:80", "http_proxy": other.url, "NO_PROXY": "", "no_proxy": ""}
        assert "far:latest" in puna("list", **far).stdout
        assert len(puna("list", "--local", **far).stdout.splitlines()) == 1


def test_versions(puna: Puna, server: Served) -> None:
    own = f"puna version is {__version__}\n"
    assert puna("-v").stdout == own
    assert puna("--version", PUNA_HOST=server.url).stdout == own
    with playing() as other:
        other.play("GET", "/api/version", document({"version": "0.1.2"}))
        assert puna("-v", PUNA_HOST=other.url).stdout == f"{own}Warning: server version is 0.1.2\n"
        other.play("GET", "/api/version", Played(500, ()))
        assert puna("-v", PUNA_HOST=other.url).stdout == own


def test_a_key_is_asked_for(puna: Puna, store: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-secret-of-sixteen\n")
    os.chmod(keys, 0o600)
    with serving(tmp_path, store, PUNA_API_KEY_FILE=str(keys)) as server:
        result = puna("ps", PUNA_HOST=server.url)
        assert (result.returncode, result.stdout) == (1, "")
        assert puna("ps", PUNA_HOST=server.url, PUNA_API_KEY="a-secret-of-sixteen").returncode == 0
