"""`puna login` and `puna logout`, as processes of their own, with a registry on this machine."""

import base64
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from tests.registry.loopback import Reply, Request, Server

Puna = Callable[..., "subprocess.CompletedProcess[str]"]

RIGHT = "Basic " + base64.b64encode(b"user:s3cret pass").decode()


@pytest.fixture
def registry() -> Iterator[Server]:
    """Takes one name and password."""

    def answer(request: Request) -> Reply:
        if request.headers.get("authorization") == RIGHT:
            return Reply(body=b"{}")
        return Reply(401, [("WWW-Authenticate", 'Basic realm="test"')], b"TOP-SECRET")

    server = Server(answer)
    yield server
    server.close()


@pytest.fixture
def host(registry: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    return f"127.0.0.1:{registry.port}"


def test_login_and_logout(puna: Puna, home: Path, host: str) -> None:
    file = home / ".docker" / "config.json"
    done = puna("login", host, "--insecure", "-u", "user", "--password-stdin", given="s3cret pass\n")
    assert (done.stdout, done.stderr, done.returncode) == ("Login Succeeded\n", "", 0)
    assert json.loads(file.read_text()) == {
        "auths": {host: {"auth": base64.b64encode(b"user:s3cret pass").decode()}}
    }
    assert file.stat().st_mode & 0o777 == 0o600
    assert puna("logout", host).stdout == f"Removed the login for {host}\n"
    assert json.loads(file.read_text()) == {"auths": {}}
    assert puna("logout", host).stdout == f"Not logged in to {host}\n"


def test_the_configuration_may_allow_what_insecure_does(puna: Puna, home: Path, host: str) -> None:
    arguments = ("login", host, "-u", "user", "--password-stdin")
    done = puna(*arguments, given="s3cret pass")
    assert done.returncode == 1
    assert "private = true" in done.stderr
    file = home / "config.toml"
    file.write_text(f'[registries."{host}"]\nprivate = true\nplain_http = true\n')
    assert puna(*arguments, given="s3cret pass", PUNA_CONFIG=str(file)).stdout == "Login Succeeded\n"


@pytest.mark.parametrize(
    ("arguments", "given", "message"),
    [
        (["-u", "user", "--password-stdin"], "wrong s3cret", "unauthorized: access denied by"),
        (["--password-stdin"], "s3cret", "--password-stdin needs the user name"),
        (["-u", "user"], "s3cret", "there is no terminal to ask"),
        (["-u", "user", "--password-stdin"], "", "the password must not be empty"),
        (
            ["-u", "user", "--password-stdin"],
            "s3cret\nmore",
            "the password must not be empty or have control",
        ),
        (["-u", "a:b", "--password-stdin"], "s3cret", "the user name must not"),
        (["-u", "", "--password-stdin"], "s3cret", "the user name must not"),
    ],
)
def test_what_does_not_work_is_one_line_and_stores_nothing(
    puna: Puna, home: Path, host: str, arguments: list[str], given: str, message: str
) -> None:
    done = puna("login", host, "--insecure", *arguments, given=given)
    assert (done.stdout, done.returncode) == ("", 1)
    assert done.stderr.startswith("Error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "s3cret" not in done.stderr
    assert "TOP-SECRET" not in done.stderr
    assert not (home / ".docker").exists()


@pytest.mark.parametrize("bad", ["http://h", "a/b", "0x7f.1", "h:99999", "user@h", ""])
@pytest.mark.parametrize("command", ["login", "logout"])
def test_hosts_that_are_none(puna: Puna, command: str, bad: str) -> None:
    done = puna(command, bad)
    assert (done.stdout, done.returncode) == ("", 1)
    assert done.stderr.count("\n") == 1


def test_the_password_is_asked_for_and_not_shown(
    environment: Mapping[str, str], home: Path, host: str, tmp_path: Path
) -> None:
    """With a terminal of its own, as a person would have it."""
    pid, terminal = pty.fork()
    if pid == 0:
        arguments = [sys.executable, "-m", "puna", "login", host, "--insecure"]
        os.execve(sys.executable, arguments, {**environment, "NO_PROXY": "127.0.0.1"})
    shown = b""
    answers = {b"Username: ": b"user\n", b"Password: ": b"s3cret pass\n"}
    try:
        while data := os.read(terminal, 1000):
            shown += data
            for question in [question for question in answers if shown.endswith(question)]:
                os.write(terminal, answers.pop(question))
    except OSError:  # the program has ended
        pass
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, shown
    assert b"Login Succeeded" in shown
    assert b"s3cret" not in shown
    assert (home / ".docker" / "config.json").is_file()
