"""What the command line says and how it ends, before any model is loaded."""

import io
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from tests.cli.conftest import NOWHERE

import puna as package
from puna.cli import main
from puna.cli.place import Wanted
from puna.cli.speaker import Speaker
from puna.cli.storeplace import StorePlace

Puna = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with things that are no models, and an empty store."""
    monkeypatch.setenv("PUNA_MODELS", str(tmp_path / "store"))
    monkeypatch.setenv("PUNA_HOST", "127.0.0.1:1")
    for variable, value in NOWHERE.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    (tmp_path / "text.gguf").write_text("once upon a time")
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "no-such-model", "hi"],
            "model 'no-such-model:latest' not found here, and cannot be pulled: pull model manifest: ",
        ),
        (["run", "./no-such.gguf", "hi"], "no-such.gguf: no such file"),
        (["run", "no-such.gguf", "hi"], "no-such.gguf: no such file"),
        (["run", "/no/such", "hi"], "/no/such: no such file"),
        (["run", "folder", "hi"], "folder is a folder; a GGUF file is wanted"),
        (["run", "./folder", "hi"], "folder is a folder; a GGUF file is wanted"),
        (["run", "pipe", "hi"], "pipe is not a regular file"),
        (["run", "/dev/zero", "hi"], "/dev/zero is not a regular file"),
        (["run", "text.gguf", "hi"], "text.gguf: is not a GGUF file"),
        (["run", "./empty.gguf", "hi"], "empty.gguf"),
        (["run", "../../etc/passwd", "hi"], "no such file"),
        (["run", "~nobody-has-this-name/m.gguf", "hi"], "no such file"),
        (["create", "m", "-f", "~nobody-has-this-name/Modelfile"], "specified Modelfile wasn't found"),
        (["run", "a/../b", "hi"], "invalid model name"),
        (["run", "", "hi"], "invalid model name"),
        (["run", "pypi://", "hi"], "invalid package name '' after pypi://"),
        (["run", "pypi://--index-url=x", "hi"], "invalid package name"),
        (["run", "m"], "there is no prompt"),
        (["run", "m", " "], "there is no prompt"),
        (["run"], "Missing argument 'MODEL'."),
        (["run", "--frob", "m"], "No such option '--frob'."),
        (["frob"], "No such command 'frob'."),
        (["run", "m", "hi", "--num-ctx", "many"], "num_ctx must be a whole number, not 'many'"),
        (["run", "m", "hi", "--num-ctx", "0"], "num_ctx must be a whole number from 1 to 2147483647, not 0"),
        (["run", "m", "hi", "--temperature", "-1"], "temperature must be a number from 0 to 1000, not -1"),
        (["run", "m", "hi", "--temperature", "nan"], "temperature must be"),
        (["run", "m", "hi", "--top-k", "1.5"], "top_k must be a whole number"),
        (["run", "m", "hi", "--kv-cache-type", "q9"], "kv_cache_type is 'q9'"),
        (["run", "m", "hi", "-o", "colour=red"], "unknown option 'colour'; the options are"),
        (["run", "m", "hi", "-o", "min_p"], "'min_p' is no option; write it as name=value"),
        (["run", "m", "hi", "-o", "transcode=maybe"], "transcode must be true or false"),
        (["run", "m", "hi", "-o", "tensor_split=1,x"], "tensor_split must be numbers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_status_1(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = sorted(here.rglob("*"))
    assert main.run(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(here.rglob("*")) == before


def test_errors_reach_the_shell(puna: Puna, tmp_path: Path, home: Path) -> None:
    result = puna("run", tmp_path, "hi")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"Error: {tmp_path} is a folder; a GGUF file is wanted\n"
    assert list(home.iterdir()) == []


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["-v"]):
        assert main.run(arguments) == 0
        assert capsys.readouterr().out == f"puna version is {package.__version__}\n"
    for arguments in (["--help"], ["-h"], []):
        assert main.run(arguments) == 0
        out = capsys.readouterr().out
        assert out.startswith("Usage: puna ")
        assert all(f"\n  {name} " in out for name in main.COMMANDS)


def test_every_command_is_where_the_table_says() -> None:
    for name in main.COMMANDS:
        command = main.cli.get_command(click.Context(main.cli), name)
        assert command is not None
        assert command.name == name


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from puna.cli.main import run; run(['--help']); print(*sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(result.stderr.split())
    assert not loaded & {
        "numpy",
        "jinja2",
        "msgspec",
        "rich",
        "puna.engine",
        "puna.ggml",
        "puna.store",
        "ctypes",
    }
    assert not any(name.startswith("puna.cli.commands.") for name in loaded)


def test_a_list_imports_little(tmp_path: Path) -> None:
    code = "import sys; from puna.cli.main import run; run(['list']); print(*sys.modules, file=sys.stderr)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PUNA_MODELS": str(tmp_path), "PUNA_HOST": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not set(result.stderr.split()) & {
        *("numpy", "jinja2", "ssl", "asyncio", "httpx2", "cryptography", "tomllib", "email"),
        *("puna.engine", "puna.registry", "puna.services", "puna.gguf", "puna.client.replies"),
    }


def test_an_interrupt_is_status_130(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(place: StorePlace, name: str, wanted: Wanted) -> Speaker:
        raise KeyboardInterrupt

    monkeypatch.setattr(StorePlace, "open", interrupted)
    assert main.run(["run", "m", "hi"]) == 130


def test_a_reader_that_has_gone_is_no_error(environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "puna", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    with process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode != 0


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_streams_that_are_closed(environment: dict[str, str], closed: str, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text("FROM ./no-such.gguf")
    for arguments, status in (("list", 0), ("show m", 1), ("create m", 1), ("import -", 1)):
        command = f"{shlex.quote(sys.executable)} -m puna {arguments} {closed}"
        result = subprocess.run(
            ["sh", "-c", command], capture_output=True, env=environment, encoding="utf-8", cwd=tmp_path
        )
        assert result.returncode == status
        assert "Traceback" not in result.stderr


def test_characters_that_the_output_cannot_have(puna: Puna) -> None:
    result = puna("rm", "--help", PYTHONIOENCODING="latin-1")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: puna rm [OPTIONS] MODEL?")


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for variable in ("HOME", "PUNA_MODELS", "OLLAMA_MODELS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    assert main.run(["list"]) == 1
    assert capsys.readouterr().err == "Error: there is no home folder: set HOME\n"
    monkeypatch.setenv("PUNA_MODELS", "~nobody-has-this-name/models")
    assert main.run(["list"]) == 0
