"""The user's configuration file, and what it makes of registries."""

from pathlib import Path

import pytest

from puna import settings
from puna.errors import AddressRefused, InvalidOption
from puna.registry.registries import Registry, mirrors_of, read_registries, registry_for
from puna.registry.urls import Origin, parse_url


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    monkeypatch.setenv("PUNA_CONFIG", str(path))
    return path


def configured(file: Path, text: str) -> dict[str, Registry]:
    file.write_text(text)
    return read_registries(settings.configuration())


def test_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PUNA_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert settings.configuration_path() == tmp_path / ".config/puna/config.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert settings.configuration_path() == tmp_path / "xdg/puna/config.toml"
    monkeypatch.setenv("PUNA_CONFIG", "~/mine.toml")
    assert settings.configuration_path() == tmp_path / "mine.toml"


def test_no_file_is_an_empty_configuration(file: Path) -> None:
    assert read_registries(settings.configuration()) == {}


def test_all_keys(file: Path) -> None:
    text = """
    [registries."Registry.example.com:5000"]
    mirrors = ["https://mirror.example.com", "http://10.0.0.1:5000/"]
    plain_http = true
    private = true
    ca = "company.pem"
    realms = ["https://auth.example.com"]
    ollama_key = true
    """
    assert configured(file, text) == {
        "registry.example.com:5000": Registry(
            host="registry.example.com:5000",
            origin=Origin("http", "registry.example.com", 5000),
            mirrors=(Origin("https", "mirror.example.com", 443), Origin("http", "10.0.0.1", 5000)),
            private=True,
            ca=file.parent / "company.pem",
            realms=(Origin("https", "auth.example.com", 443),),
            ollama_key=True,
        )
    }


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[registries", ["is not TOML"]),
        ("a = " + "[" * 100_000, ["is not TOML"]),
        ("\udcff", ["is not TOML"]),
        ("[registry.x]", ["unknown table or key 'registry'", "registries"]),
        ("registries = 1", ["registries must be tables"]),
        ("[registries]\nx = 1", ['[registries."x"]', "Expected `object`"]),
        ('[registries."h"]\nmiror = []', ['[registries."h"]', "miror"]),
        ('[registries."h"]\nplain_http = "yes"', ['[registries."h"]', "plain_http", "bool"]),
        ('[registries."h"]\nmirrors = [1]', ['[registries."h"]', "mirrors"]),
        ('[registries."h"]\nmirrors = ["https://m/path"]', ["mirrors", "must end after the host"]),
        ('[registries."h"]\nmirrors = ["m"]', ['[registries."h"]', "scheme"]),
        ('[registries."h"]\nrealms = ["https://user:hidden@m"]', ['[registries."h"]', "user name"]),
        ('[registries."h"]\nrealms = ["http://m"]', ["realms must be https"]),
        ('[registries."http://h"]\n', ['[registries."http://h"]', "no host"]),
        ('[registries."h"]\nca = 1', ["ca"]),
    ],
)
def test_mistakes_are_one_clear_error(file: Path, text: str, parts: list[str]) -> None:
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InvalidOption) as caught:
        read_registries(settings.configuration())
    message = str(caught.value)
    assert message.startswith(str(file))
    assert [part for part in parts if part not in message] == []
    assert len(message) < 500
    assert "hidden" not in message


def test_files_that_cannot_be_read(file: Path) -> None:
    file.write_bytes(b"#" * (2 << 20))
    with pytest.raises(InvalidOption, match="is longer than"):
        settings.configuration()
    file.unlink()
    file.mkdir()
    with pytest.raises(InvalidOption, match="directory"):
        settings.configuration()


def test_a_host_that_is_not_configured_gets_no_leave() -> None:
    registry = registry_for("Example.com:5000", {})
    assert registry == Registry("example.com:5000", Origin("https", "example.com", 5000))
    assert not registry.may_be_private("example.com")


def test_insecure_allows_plain_http_and_private_addresses_for_that_host(file: Path) -> None:
    table = '[registries."h:5000"]\nrealms = ["https://auth.example.com"]'
    registry = registry_for("h:5000", configured(file, table), insecure=True)
    assert registry.origin == Origin("http", "h", 5000)
    assert registry.may_be_private("h")
    assert not registry.may_be_private("elsewhere")
    registry.check_encryption(Origin("http", "h", 5000))
    with pytest.raises(AddressRefused, match="insecure protocol http"):
        registry.check_encryption(Origin("http", "elsewhere", 5000))


@pytest.mark.parametrize("host", ["169.254.1", "0", "::1", "a:b", "a:99999", "a..b", "", "h\n"])
def test_hosts_that_are_none(host: str) -> None:
    with pytest.raises(AddressRefused):
        registry_for(host, {})


def test_public_registries_are_known() -> None:
    docker = registry_for("docker.io", {})
    assert str(docker.origin) == "https://registry-1.docker.io"
    assert docker.realms == (parse_url("https://auth.docker.io").origin,)
    assert not docker.ollama_key
    for host in ("registry.ollama.ai", "hf.co", "huggingface.co", "ollama.com"):
        assert registry_for(host, {}).ollama_key
    assert parse_url("https://huggingface.co").origin in registry_for("hf.co", {}).realms


def test_mirrors_follow_their_own_tables(file: Path) -> None:
    text = """
    [registries."registry.ollama.ai"]
    mirrors = ["https://m.example.com", "http://10.0.0.1:5000"]
    [registries."m.example.com"]
    ca = "/etc/m.pem"
    ollama_key = true
    """
    registries = configured(file, text)
    first, second = mirrors_of(registry_for("registry.ollama.ai", registries), registries)
    assert (str(first.origin), first.ca, first.ollama_key) == (
        "https://m.example.com",
        Path("/etc/m.pem"),
        True,
    )
    assert (str(second.origin), second.private, second.ollama_key) == ("http://10.0.0.1:5000", True, False)
