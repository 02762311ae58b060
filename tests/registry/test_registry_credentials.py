"""Docker's configuration file and credential helpers; a helper is a real program made by the test."""

import base64
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from puna.errors import FetchError
from puna.registry.credentials import Credentials, DockerConfig

HUB = "https://index.docker.io/v1/"

HELPER = """#!{python}
import json, sys
from pathlib import Path
file = Path({file!r})
kept = json.loads(file.read_text()) if file.exists() else {{}}
action, given = sys.argv[1], sys.stdin.read()
if action == "store":
    entry = json.loads(given)
    kept[entry.pop("ServerURL")] = entry
elif action == "erase":
    del kept[given]
elif given not in kept:
    sys.exit(print("credentials not found in native keychain") or 1)
else:
    print(json.dumps({{"ServerURL": given, **kept[given]}}))
file.write_text(json.dumps(kept))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "docker"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which programs are looked for."""
    path = tmp_path / "bin"
    path.mkdir()
    monkeypatch.setenv("PATH", str(path))
    return path


def program(programs: Path, name: str, text: str) -> None:
    path = programs / f"docker-credential-{name}"
    path.write_text(text)
    path.chmod(0o755)


def config(folder: Path, document: Any) -> DockerConfig:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return DockerConfig(folder, helper_seconds=20)


def written(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("host", ["r.example.com", "r.example.com:5000", "docker.io", "index.docker.io"])
def test_login_and_logout(folder: Path, host: str) -> None:
    docker = DockerConfig(folder)
    assert docker.find(host) is None
    assert docker.erase(host) is False
    docker.store(host, Credentials("user", "pass:word"))
    assert docker.find(host) == Credentials("user", "pass:word")
    key = HUB if "docker.io" in host else host
    assert written(folder) == {"auths": {key: {"auth": encoded("user:pass:word")}}}
    assert stat.S_IMODE((folder / "config.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert docker.erase(host) is True
    assert docker.find(host) is None
    assert written(folder) == {"auths": {}}


def test_other_things_in_the_file_stay(folder: Path) -> None:
    before = {
        "psFormat": "table",
        "auths": {"other": {"auth": "eDp5", "email": "a@b"}},
        "plugins": {"a": {"b": 1}},
    }
    docker = config(folder, before)
    docker.store("r", Credentials("u", "p"))
    assert written(folder) == {**before, "auths": {**before["auths"], "r": {"auth": "dTpw"}}}  # type: ignore[dict-item]  # a dict
    docker.erase("r")
    assert written(folder) == before


def test_a_linked_file_stays_a_link(folder: Path, tmp_path: Path) -> None:
    docker = config(folder, {"a": 1})
    real = (folder / "config.json").rename(tmp_path / "real.json")
    (folder / "config.json").symlink_to(real)
    docker.store("r", Credentials("u", "p"))
    assert (folder / "config.json").is_symlink()
    assert json.loads(real.read_text())["auths"] == {"r": {"auth": "dTpw"}}


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("r.example.com", "r.example.com"),
        ("https://r.example.com", "r.example.com"),
        ("https://r.example.com/v1/", "r.example.com"),
        ("http://r.example.com:5000/v2/", "r.example.com:5000"),
        ("R.Example.com", "r.example.com"),
        (HUB, "docker.io"),
    ],
)
def test_the_ways_hosts_are_written(folder: Path, key: str, host: str) -> None:
    docker = config(folder, {"auths": {"other": {"auth": encoded("x:y")}, key: {"auth": encoded("u:p")}}})
    assert docker.find(host) == Credentials("u", "p")
    assert docker.find("r.example.com.evil.net") is None
    assert docker.find("r.example.com:1") is None
    assert docker.erase(host) is True
    assert list(written(folder)["auths"]) == ["other"]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"username": "u", "password": "p"}, Credentials("u", "p")),
        ({"auth": encoded("u:p\0")}, Credentials("u", "p")),
        ({"auth": encoded("u:p"), "identitytoken": "t"}, Credentials("", "t", identity_token=True)),
        ({"auth": encoded("u:")}, None),
        ({}, None),
    ],
)
def test_entries(folder: Path, entry: dict[str, str], expected: Credentials | None) -> None:
    assert config(folder, {"auths": {"r": entry}}).find("r") == expected


@pytest.mark.parametrize(
    "document",
    [
        "{",
        "[]",
        "\udce9",
        "[" * 100_000,
        '{"auths": []}',
        '{"auths": {"r": 1}}',
        '{"auths": {"r": {"auth": "!!SECRET!!"}}}',
        '{"auths": {"r": {"auth": 5}}}',
        '{"auths": {"r": {"auth": "/////w=="}}}',
        '{"credsStore": "../evil"}',
        '{"credsStore": "a b"}',
        '{"credsStore": 5}',
        '{"credHelpers": {"r": "x/y\\n"}}',
        '{"credHelpers": 1}',
        " " * (5 << 20),
    ],
)
def test_damaged_files_are_one_error(folder: Path, programs: Path, document: str) -> None:
    folder.mkdir()
    (folder / "config.json").write_bytes(document.encode(errors="surrogateescape"))
    with pytest.raises(FetchError) as caught:
        DockerConfig(folder).find("r")
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    assert "SECRET" not in message
    assert len(message) < 300


def test_an_empty_file_is_an_empty_configuration(folder: Path) -> None:
    assert config(folder, "\n").find("r") is None


@pytest.mark.parametrize("setting", ["credsStore", "credHelpers"])
@pytest.mark.parametrize("host", ["r.example.com:5000", "docker.io"])
def test_a_helper_keeps_the_credentials(
    folder: Path, programs: Path, tmp_path: Path, setting: str, host: str
) -> None:
    key = HUB if host == "docker.io" else host
    program(programs, "test", HELPER.format(python=sys.executable, file=str(tmp_path / "kept.json")))
    docker = config(folder, {setting: "test" if setting == "credsStore" else {key: "test"}})
    assert docker.find(host) is None
    docker.store(host, Credentials("u", "sécret"))
    assert docker.find(host) == Credentials("u", "sécret")
    assert json.loads((tmp_path / "kept.json").read_text()) == {key: {"Username": "u", "Secret": "sécret"}}
    assert "cret" not in (folder / "config.json").read_text().replace("credsStore", "")
    assert docker.erase(host) is True
    assert docker.find(host) is None
    assert json.loads((tmp_path / "kept.json").read_text()) == {}


def test_an_identity_token_of_a_helper(folder: Path, programs: Path) -> None:
    program(programs, "t", '#!/bin/sh\necho \'{"ServerURL":"r","Username":"<token>","Secret":"t"}\'\n')
    assert config(folder, {"credsStore": "t"}).find("r") == Credentials("", "t", identity_token=True)


def test_the_file_is_read_where_the_helper_has_nothing(folder: Path, programs: Path) -> None:
    program(programs, "t", "#!/bin/sh\necho 'credentials not found in native keychain'\nexit 1\n")
    docker = config(folder, {"credsStore": "t", "auths": {"r": {"auth": encoded("u:p")}}})
    assert docker.find("r") == Credentials("u", "p")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#!/bin/sh\necho TOP-SECRET >&2\necho TOP-SECRET\nexit 3\n", "failed with status 3"),
        ("#!/bin/sh\necho TOP-SECRET\n", "answers with no credentials"),
        ("#!/bin/sh\necho '[\"TOP-SECRET\"]'\n", "answers with no credentials"),
        ("#!/bin/sh\nwhile :; do echo TOP-SECRET; done\n", "prints more than"),
        ("#!/no/such/interpreter\n", "cannot be started"),
    ],
)
def test_helpers_that_fail(folder: Path, programs: Path, text: str, message: str) -> None:
    program(programs, "t", text)
    with pytest.raises(FetchError, match=message) as caught:
        config(folder, {"credsStore": "t"}).find("r")
    assert "docker-credential-t" in str(caught.value)
    assert "TOP-SECRET" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_helper_that_does_not_end(folder: Path, programs: Path) -> None:
    program(programs, "t", f"#!{sys.executable}\nimport time; time.sleep(60)\n")
    config(folder, {"credsStore": "t"})
    with pytest.raises(FetchError, match=r"did not end in 0\.2 s"):
        DockerConfig(folder, helper_seconds=0.2).find("r")


def test_a_helper_that_is_not_there(folder: Path, programs: Path) -> None:
    with pytest.raises(FetchError, match=r"docker-credential-desktop, which .* names, is not installed"):
        config(folder, {"credsStore": "desktop"}).find("r")


def test_secrets_are_not_shown() -> None:
    credentials = Credentials("user", "hidden")
    assert "hidden" not in repr(credentials)
    assert credentials.basic() == "Basic " + encoded("user:hidden")


def test_where_docker_keeps_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from puna import settings

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    assert settings.docker_folder() == tmp_path / ".docker"
    monkeypatch.setenv("DOCKER_CONFIG", os.fspath(tmp_path / "x"))
    assert settings.docker_folder() == tmp_path / "x"
