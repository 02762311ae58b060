"""Settings from the environment and the user's configuration file: the only module that reads them.

Setting `X` is `PUNA_X`, else `OLLAMA_X`. Surrounding blanks and quotes are taken off a value, as Ollama does,
and an empty value counts as unset. Callers read a setting once, at the edge of the program, and pass it on.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puna.errors import InvalidOption

OLLAMA_VERSION = "0.35.0"
"""The release of Ollama whose API this is; its clients ask for one and compare."""

_CONFIGURATION_LIMIT = 1 << 20
# The tables a configuration file may have. What is in one is checked by the part that it is for.
_TABLES = ("registries",)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that clients show.

    Attributes:
        name: for logs; no secret.
        secret: what is shown.
        scopes: what it opens, of `inference` and `manage`.
        max_concurrent: requests that may run with it at once; 0 for any number.
    """

    name: str
    secret: str = field(repr=False)
    scopes: frozenset[str] = frozenset({"inference", "manage"})
    max_concurrent: int = 0


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How the server is to run. `docs/server.md` says what each means to a user.

    Attributes:
        host, port: where it listens; an empty host is every address.
        hosts: names besides its own under which it may be asked for.
        origins: of web pages that may use it, besides those of this machine.
        api_keys: whoever has one of these may use it; none leaves it open to all that reach it.
        insecure_no_keys: it may listen on a network without keys.
        keep_alive: seconds that a model stays loaded after its last use; infinite for ever.
        load_timeout: seconds without progress after which a load is given up; infinite for never.
        context_length: tokens of a model's context where nobody says; 0 lets the model decide.
        num_parallel: requests that a model computes at once.
        max_loaded_models: 0 lets the number of devices decide.
        max_queue: requests that may wait for a model.
        flash_attention: None leaves it to the device.
        gpu_overhead: bytes of each GPU to leave alone.
        sched_spread: use all GPUs even for what fits into one.
        log_level: of Python's `logging`.
        log_format: `text` or `json`.
        metrics: whether `/metrics` is there.
        max_body: bytes of a request's body, but for files of models.
        header_timeout, body_timeout, idle_timeout, write_timeout: seconds that a client may take for a
            request's head, for its body, between two requests, and to take in what is sent.
        max_connections: open at once.
        shutdown_grace: seconds that running requests get when the server is told to stop.
        api_version: of Ollama, as clients are told.
    """

    host: str = "127.0.0.1"
    port: int = 11434
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    api_keys: tuple[ApiKey, ...] = ()
    insecure_no_keys: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    keep_alive: float = 300.0
    load_timeout: float = 300.0
    context_length: int = 0
    num_parallel: int = 1
    max_loaded_models: int = 0
    max_queue: int = 512
    kv_cache_type: str = "f16"
    flash_attention: bool | None = None
    gpu_overhead: int = 0
    sched_spread: bool = False
    log_level: int = 20
    log_format: str = "text"
    metrics: bool = False
    max_body: int = 100 << 20
    header_timeout: float = 20.0
    body_timeout: float = 300.0
    idle_timeout: float = 75.0
    write_timeout: float = 120.0
    max_connections: int = 1024
    shutdown_grace: float = 10.0
    api_version: str = OLLAMA_VERSION


@dataclass(frozen=True, slots=True)
class Configuration:
    """The user's configuration file.

    Attributes:
        path: where it is, or would be; for messages.
        tables: its tables by name, as TOML gives them; none when there is no file.
    """

    path: Path
    tables: Mapping[str, Any]


def variable(name: str) -> str | None:
    """The value of `PUNA_<name>`, else of `OLLAMA_<name>`, else None."""
    for prefix in ("PUNA_", "OLLAMA_"):
        value = os.environ.get(prefix + name, "").strip().strip("\"'")
        if value:
            return value
    return None


def truth(name: str) -> bool:
    """Whether `name` is set, and to something else than what Go's `ParseBool` takes for false."""
    return (variable(name) or "false").lower() not in ("0", "f", "false")


def whole_number(name: str, default: int) -> int:
    """The value of `name` if it is a whole number above 0, else `default`."""
    text = variable(name) or ""
    return int(text) if text.isascii() and text.isdecimal() and int(text[:9]) > 0 else default


def keep_unused() -> bool:
    """Whether blobs that a new pull or create makes useless stay: `PUNA_NOPRUNE`, else `OLLAMA_NOPRUNE`."""
    return truth("NOPRUNE")


def transfer_streams() -> int:
    """Most parts of a blob to fetch at once: `PUNA_MAX_TRANSFER_STREAMS`, else 8."""
    return min(whole_number("MAX_TRANSFER_STREAMS", 8), 64)


def api_key() -> str | None:
    """What a client says to a server who it is: `PUNA_API_KEY`. Ollama's variable is for ollama.com only."""
    return os.environ.get("PUNA_API_KEY", "").strip() or None


def models_path() -> Path:
    """The folder of the model store: `PUNA_MODELS`, else `OLLAMA_MODELS`, else `~/.ollama/models`."""
    configured = variable("MODELS")
    return Path(os.path.expanduser(configured)) if configured else ollama_folder() / "models"


def ollama_folder() -> Path:
    """Where Ollama keeps its key and models: `~/.ollama`."""
    return _home() / ".ollama"


def history_path() -> Path:
    """Where what was typed in conversations is kept: `~/.ollama/history`, which Ollama shares."""
    return ollama_folder() / "history"


def is_able_terminal() -> bool:
    """Whether the terminal can move its cursor, as `TERM` says."""
    return os.environ.get("TERM", "dumb" if os.name == "posix" else "") != "dumb"


def editor() -> list[str]:
    """The program to write a text with, and its arguments.

    It is `PUNA_EDITOR`, else `OLLAMA_EDITOR`, else `VISUAL`, else `EDITOR`, else what is usual.

    Raises:
        InvalidOption: its quotes do not match.
    """
    import shlex

    usual = "notepad" if os.name == "nt" else "vi"
    named = variable("EDITOR") or os.environ.get("VISUAL") or os.environ.get("EDITOR") or usual
    try:
        return shlex.split(named) or [usual]
    except ValueError as error:
        raise InvalidOption(f"the editor {named[:100]!r} cannot be started: {error}") from error


def docker_folder() -> Path:
    """Where Docker keeps its `config.json`: `DOCKER_CONFIG`, else `~/.docker`."""
    configured = os.environ.get("DOCKER_CONFIG", "")
    return Path(configured) if configured else _home() / ".docker"


def configuration_path() -> Path:
    """`PUNA_CONFIG`, else `puna/config.toml` under `XDG_CONFIG_HOME`, else under `~/.config`."""
    configured = os.environ.get("PUNA_CONFIG", "").strip()
    if configured:
        return Path(os.path.expanduser(configured))
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base else _home() / ".config") / "puna" / "config.toml"


def configuration() -> Configuration:
    """The user's configuration; an empty one when there is no file.

    Raises:
        InvalidOption: the file cannot be read, is not TOML, or has a table that means nothing.
    """
    import tomllib

    path = configuration_path()
    try:
        with path.open("rb") as file:
            content = file.read(_CONFIGURATION_LIMIT + 1)
    except FileNotFoundError:
        return Configuration(path, {})
    except OSError as error:
        raise InvalidOption(f"{path}: {error.strerror or error}") from error
    if len(content) > _CONFIGURATION_LIMIT:
        raise InvalidOption(f"{path} is longer than the {_CONFIGURATION_LIMIT} bytes it may have")
    try:
        tables = tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidOption(f"{path} is not TOML: {str(error)[:200]}") from error
    unknown = next((name for name in tables if name not in _TABLES), None)
    if unknown is not None:
        raise InvalidOption(f"{path}: unknown table or key {unknown[:100]!r}; known: {', '.join(_TABLES)}")
    return Configuration(path, tables)


def _home() -> Path:
    """The user's home. Raises: InvalidOption where the user has none, as in some containers."""
    home = os.path.expanduser("~")
    if home == "~":
        raise InvalidOption("there is no home folder: set HOME")
    return Path(home)


def proxy_for(url: str) -> str | None:
    """The address of the proxy for `url`; None where the connection is direct.

    Read as Python's own `urllib.request` does: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` in
    either case, else what macOS or Windows has set.
    """
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxy


def child_environment(temporary: Path) -> dict[str, str]:
    """The environment for a child process whose temporary files belong in `temporary`."""
    folder = str(temporary)
    return {**os.environ, "TMPDIR": folder, "TEMP": folder, "TMP": folder}


# What a runner gets of the environment, and nothing else: neither keys nor tokens nor proxies, and not
# GGML_BACKEND_PATH or the addresses of RPC servers, through which others could choose what it loads or asks.
_RUNNER_VARIABLES = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_[A-Z]+|TZ|TMPDIR|TEMP|TMP|XDG_CACHE_HOME|VIRTUAL_ENV"
    r"|PYTHON(PATH|HOME|UTF8|DONTWRITEBYTECODE|PYCACHEPREFIX)|(LD|DYLD)_LIBRARY_PATH"
    r"|(PUNA|OLLAMA)_GGML_PATH|GGML_(NO_BACKTRACE|(CUDA|HIP|VK|METAL|SYCL|CANN)_[A-Z0-9_]+)"
    r"|(OMP|GOMP|KMP|MALLOC|CUDA|NVIDIA|HIP|HSA|ROCR|ROCM|VK|SYCL|ONEAPI|ZE)_[A-Z0-9_]+"
)


def runner_environment() -> dict[str, str]:
    """The environment for a process that a model runs in: what finds programs, libraries and devices."""
    return {name: value for name, value in os.environ.items() if _RUNNER_VARIABLES.fullmatch(name)}


def ggml_path() -> Path | None:
    """The folder of the user's own ggml build: `PUNA_GGML_PATH`, else None."""
    configured = variable("GGML_PATH")
    return Path(configured) if configured else None


def prepare_ggml() -> None:
    """Sets what ggml and its OpenMP read from the environment when they are loaded; what the user set stays.

    GGML_NO_BACKTRACE: no debugger is started when ggml gives up. GOMP_SPINCOUNT: a thread that waits
    for the others spins about 0.1 ms, then sleeps. That is as fast as OpenMP's own 20 ms on an idle
    machine, since the parts of an operation end within microseconds of each other, and a hundred times
    faster where other programs want the cores.
    """
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
