"""From where a setting of the server comes, and what is refused."""

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from puna.errors import InvalidOption
from puna.options import OPTIONS, ServerSettings, keys_of_file
from puna.settings import described_settings, server_settings
from puna.variables import Endpoint

SECRET = "a-secret-of-enough-letters"


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration file, with nothing set elsewhere."""
    for name in os.environ:
        if name.startswith(("PUNA_", "OLLAMA_")):
            monkeypatch.delenv(name)
    path = tmp_path / "config.toml"
    monkeypatch.setenv("PUNA_CONFIG", str(path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return path


def origin_of(name: str) -> str:
    return next(setting.origin for setting in described_settings().settings if setting.name == name)


def test_defaults() -> None:
    assert server_settings() == ServerSettings()
    assert {setting.origin for setting in described_settings().settings} == {"default", "PUNA_CONFIG"}


def test_the_nearest_counts(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('[server]\nkeep_alive = "1m"')
    assert (server_settings().keep_alive, origin_of("keep_alive")) == (60, str(config))
    monkeypatch.setenv("OLLAMA_KEEP_ALIVE", "2m")
    assert (server_settings().keep_alive, origin_of("keep_alive")) == (120, "OLLAMA_KEEP_ALIVE")
    monkeypatch.setenv("PUNA_KEEP_ALIVE", " '3m' ")
    assert (server_settings().keep_alive, origin_of("keep_alive")) == (180, "PUNA_KEEP_ALIVE")
    assert server_settings({"keep_alive": "4m"}).keep_alive == 240
    monkeypatch.setenv("PUNA_KEEP_ALIVE", "")
    assert server_settings().keep_alive == 120


def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "HOST": "0.0.0.0:1",
        "HOSTS": "a,b",
        "ORIGINS": "https://x, app://y",
        "API_KEYS": f"{SECRET}1, {SECRET}2",
        "INSECURE_NO_KEYS": "1",
        "TLS_CERT": "/c",
        "TLS_KEY": "/k",
        "KEEP_ALIVE": "-1",
        "LOAD_TIMEOUT": "0",
        "CONTEXT_LENGTH": "8192",
        "NUM_PARALLEL": "0",
        "MAX_LOADED_MODELS": "2",
        "MAX_QUEUE": "3",
        "MAX_KEEP_ALIVE": "1h",
        "MAX_CTX": "9000",
        "STEP_TIMEOUT": "0",
        "RUNNER_MEMORY": "2G",
        "KV_CACHE_TYPE": "Q8_0",
        "FLASH_ATTENTION": "false",
        "GPU_OVERHEAD": "1G",
        "SCHED_SPREAD": "true",
        "DEBUG": "1",
        "LOG_FORMAT": "json",
        "METRICS": "1",
        "MAX_BODY": "1M",
        "MAX_MESSAGES": "11",
        "MAX_IMAGES": "0",
        "MAX_STOPS": "12",
        "MAX_STOP_LENGTH": "13",
        "MAX_INPUTS": "14",
        "MAX_OPENED_MODELS": "15",
        "MAX_OPENED_BYTES": "1G",
        "PROMPT_THREADS": "16",
        "HEADER_TIMEOUT": "1s",
        "BODY_TIMEOUT": "2s",
        "IDLE_TIMEOUT": "3s",
        "WRITE_TIMEOUT": "4s",
        "MAX_CONNECTIONS": "5",
        "MAX_TRANSFERS": "6",
        "RESPONSES": "off",
        "SHUTDOWN_GRACE": "7s",
        "API_VERSION": "0.1.2",
    }
    assert {*texts} == {option.variable for option in OPTIONS} - {"API_KEY_FILE"}
    for name, text in texts.items():
        monkeypatch.setenv(f"OLLAMA_{name}", text)
    found = server_settings()
    assert found.listen == Endpoint("http", "0.0.0.0", 1)
    assert (found.hosts, found.origins) == (("a", "b"), ("https://x", "app://y"))
    assert [key.digest for key in found.api_keys] == [
        hashlib.sha256(f"{SECRET}{number}".encode()).digest() for number in (1, 2)
    ]
    assert (found.insecure_no_keys, found.tls_cert, found.tls_key) == (True, Path("/c"), Path("/k"))
    assert (found.keep_alive, found.load_timeout, found.context_length) == (math.inf, math.inf, 8192)
    assert (found.num_parallel, found.max_loaded_models, found.max_queue) == (1, 2, 3)
    assert (found.max_keep_alive, found.max_ctx) == (3600, 9000)
    assert (found.step_timeout, found.runner_memory) == (math.inf, 2 << 30)
    assert (found.max_messages, found.max_images, found.max_inputs) == (11, 0, 14)
    assert (found.max_stops, found.max_stop_length, found.prompt_threads) == (12, 13, 16)
    assert (found.max_opened_models, found.max_opened_bytes) == (15, 1 << 30)
    assert (found.kv_cache_type, found.flash_attention, found.gpu_overhead) == ("q8_0", False, 1 << 30)
    assert (found.sched_spread, found.log_level, found.log_format, found.metrics) == (True, 10, "json", True)
    times = (found.header_timeout, found.body_timeout, found.idle_timeout, found.write_timeout)
    assert (found.max_body, *times, found.shutdown_grace) == (1 << 20, 1, 2, 3, 4, 7)
    assert (found.max_connections, found.max_transfers, found.api_version) == (5, 6, "0.1.2")
    assert found.responses == "off"


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("0", 20),
        ("false", 20),
        ("1", 10),
        ("true", 10),
        ("yes", 10),
        ("2", 5),
        ("-1", 30),
        ("-2", 40),
        ("9", 20),
    ],
)
def test_log_levels(monkeypatch: pytest.MonkeyPatch, text: str, level: int) -> None:
    monkeypatch.setenv("OLLAMA_DEBUG", text)
    assert server_settings().log_level == level


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("KEEP_ALIVE", "1d"),
        ("MAX_QUEUE", "-5"),
        ("CONTEXT_LENGTH", "big"),
        ("GPU_OVERHEAD", "x"),
        ("HOST", "ftp://x"),
    ],
)
def test_what_means_nothing_is_passed_over_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"OLLAMA_{name}", text)
    found = server_settings()
    assert (found.keep_alive, found.max_queue, found.context_length, found.gpu_overhead) == (300, 512, 0, 0)
    (warning,) = found.warnings
    assert warning.startswith(f"OLLAMA_{name} is passed over: ")
    assert described_settings().warnings == [warning]


@pytest.mark.parametrize(
    ("name", "text"),
    [("API_KEYS", "short"), ("API_KEYS", "a secret with blanks"), ("MAX_BODY", "much"), ("LOG_FORMAT", "xml"),
     ("RESPONSES", "disk"), ("HEADER_TIMEOUT", "0"), ("API_KEY_FILE", "/no/such/file")],
)  # fmt: skip
def test_what_is_not_to_be_guessed_at_is_an_error(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"PUNA_{name}", text)
    with pytest.raises(InvalidOption) as caught:
        server_settings()
    assert "a secret with blanks" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server = 1", "server must be a table"),
        ("[server]\nkeepalive = 1", "unknown key 'keepalive'"),
        ('[server]\nkeep_alive = "1d"', "keep_alive: '1d' is no duration"),
        ("[server]\nmax_queue = -1", "max_queue"),
        ("[server]\nmax_queue = true", "max_queue: it is neither true nor false"),
        ("[server]\nhosts = [1]", "hosts"),
        ('[server]\napi_keys = ["short"]', "api_keys: an API key has at least 16"),
        ('[server]\napi_keys = [{secret = "x", sha256 = "y"}]', "api_keys: a key has either"),
        ('[server]\napi_keys = [{sha256 = "y"}]', "api_keys: the sha256 of a key is"),
        (f'[server]\napi_keys = [{{secret = "{SECRET}", scopes = ["root"]}}]', "not 'root'"),
        (f'[server]\napi_keys = [{{secret = "{SECRET}", scope = ["manage"]}}]', "wrong is 'scope'"),
        ('[server]\napi_keys = "x"', "api_keys must be a list"),
        ('[server]\ntls_cert = "x"', "TLS needs a certificate and its key"),
    ],
)
def test_a_wrong_configuration_is_an_error(config: Path, text: str, message: str) -> None:
    config.write_text(text)
    with pytest.raises(InvalidOption, match=message.replace("[", r"\[")):
        server_settings()


def test_the_configuration_has_values_of_their_types(config: Path) -> None:
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    config.write_text(
        "[server]\n"
        'listen = "[::1]:80"\nhosts = ["a.example"]\norigins = "https://a, https://b"\nmetrics = true\n'
        'keep_alive = 1.5\nload_timeout = 60\nlog_level = true\nmax_body = "2M"\nflash_attention = false\n'
        "[[server.api_keys]]\n"
        f'name = "ci"\nsha256 = "{digest}"\nscopes = ["inference"]\nmax_concurrent = 2\n'
        f'[[server.api_keys]]\nsecret = "{SECRET}-2"\n'
    )
    found = server_settings()
    assert (found.listen.host, found.listen.port, found.hosts) == ("::1", 80, ("a.example",))
    assert (found.origins, found.metrics, found.flash_attention) == (("https://a", "https://b"), True, False)
    assert (found.keep_alive, found.load_timeout, found.log_level, found.max_body) == (1.5, 60, 10, 2 << 20)
    limited, plain = found.api_keys
    assert plain.scopes == {"inference", "manage"}
    assert (limited.name, limited.digest.hex(), limited.max_concurrent) == ("ci", digest, 2)
    assert limited.scopes == {"inference"}


def test_a_file_of_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# mine\n\n{SECRET}\n{SECRET}-2 inference\n")
    monkeypatch.setenv("PUNA_API_KEY_FILE", str(path))
    everything, asking = server_settings().api_keys
    assert everything.scopes == {"inference", "manage"}
    assert asking.scopes == {"inference"}
    with pytest.raises(ValueError, match="line 2: the scopes"):
        keys_of_file(f"{SECRET}\n{SECRET} all")
    path.write_text("short")
    with pytest.raises(InvalidOption, match="line 1") as caught:
        server_settings()
    assert "short\n" not in str(caught.value)


def test_secrets_are_not_kept() -> None:
    assert SECRET not in repr(server_settings({"api_keys": SECRET}))
    assert hashlib.sha256(SECRET.encode()).hexdigest() not in repr(server_settings({"api_keys": SECRET}))


def puna(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "puna", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60
    )


def test_puna_config_shows_all_and_no_secret(config: Path) -> None:
    config.write_text("[server]\nmax_queue = 7")
    given = {"PUNA_API_KEYS": SECRET, "OLLAMA_KEEP_ALIVE": "-1", "OLLAMA_MAX_LOADED_MODELS": "x"}
    done = puna("config", "--json", **given)
    document = json.loads(done.stdout)
    found = {entry["name"]: (entry["value"], entry["origin"]) for entry in document["settings"]}
    assert found["api_keys"] == ("1 set", "PUNA_API_KEYS")
    assert found["keep_alive"] == ("forever", "OLLAMA_KEEP_ALIVE")
    assert found["max_queue"] == ("7", str(config))
    assert found["listen"] == ("http://127.0.0.1:11434", "default")
    assert found["load_timeout"] == ("5m0s", "default")
    assert document["warnings"] == [
        "OLLAMA_MAX_LOADED_MODELS is passed over: 'x' is no whole number of 0 or more"
    ]
    shown = puna("config", **given)
    assert SECRET not in done.stdout + shown.stdout
    assert shown.stdout.splitlines()[0].split() == ["NAME", "VALUE", "ORIGIN"]
    assert "Warning: OLLAMA_MAX_LOADED_MODELS" in shown.stderr
    assert {option.name for option in OPTIONS} <= {line.split()[0] for line in shown.stdout.splitlines()}
