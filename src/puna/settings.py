"""Settings from the environment and the user's configuration file: the only module that reads them.

Setting `X` is `PUNA_X`, else `OLLAMA_X`. Surrounding blanks and quotes are taken off a value, as Ollama does,
and an empty value counts as unset. Callers read a setting once, at the edge of the program, and pass it on.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from puna.errors import InvalidOption
from puna.options import OPTIONS, ApiKey, Option, ServerSettings, from_table, keys_of_file
from puna.variables import Endpoint, clean, endpoint

_CONFIGURATION_LIMIT = 1 << 20
# The tables a configuration file may have. What is in one is checked by the part that it is for.
_TABLES = ("registries", "server")
_PREFIXES = ("PUNA_", "OLLAMA_")


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
    found = _found(name)
    return found[1] if found else None


def _found(name: str) -> tuple[str, str] | None:
    """The variable that is set of those that may set `name`, and its value."""
    for prefix in _PREFIXES:
        value = clean(os.environ.get(prefix + name, ""))
        if value:
            return prefix + name, value
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


def server_endpoint() -> Endpoint:
    """Where the server is: `PUNA_HOST`, else `OLLAMA_HOST`, else as configured, else 127.0.0.1:11434.

    Raises:
        InvalidOption: as `server_settings`.
    """
    text = variable("HOST")
    if text is None:
        return server_settings().listen if _is_configured() else Endpoint()
    try:
        return endpoint(text)
    except ValueError as error:
        raise InvalidOption(f"HOST: {error}") from error


def _is_configured() -> bool:
    """Whether there is a configuration file; a user without a home has none."""
    try:
        return configuration_path().exists()
    except InvalidOption:
        return False


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
    # Not through `variable`, which would take away the quotes at the end of a command.
    names = ("PUNA_EDITOR", "OLLAMA_EDITOR", "VISUAL", "EDITOR")
    named = next((text for name in names if (text := os.environ.get(name, "").strip())), usual)
    try:
        return shlex.split(named) or [usual]
    except ValueError as error:
        raise InvalidOption(f"the editor {named[:100]!r} cannot be started: {error}") from error


def private_folders() -> tuple[str, ...]:
    """Folders of the user's that no stranger is to read the names of."""
    folders = (models_path(), configuration_path().parent, ollama_folder(), docker_folder(), _home())
    return tuple(str(folder) for folder in folders)


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


@dataclass(frozen=True, slots=True)
class Setting:
    """What a setting is, and why.

    Attributes:
        value: as `puna.options` reads it.
        origin: `default`, the path of the configuration file, a variable of the environment, or a flag.
        secret: nobody is to be shown the value.
    """

    name: str
    value: Any
    origin: str
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Described:
    """All settings, and warnings about values that mean nothing and so do not count."""

    settings: list[Setting]
    warnings: list[str]


def server_settings(flags: Mapping[str, str] | None = None) -> ServerSettings:
    """How the server is to run.

    Args:
        flags: texts from the command line by the names of `puna.options.OPTIONS`.

    Raises:
        InvalidOption: the configuration file or a flag is not as it should be, or one of those variables that
            are not to be guessed at, or settings do not go together.
    """
    described = _server_options(flags or {})
    values = {setting.name: setting.value for setting in described.settings if setting.origin != "default"}
    key_file = values.pop("api_key_file", None)
    settings = ServerSettings(**values, warnings=tuple(described.warnings))
    if key_file is not None:
        settings = replace(settings, api_keys=(*settings.api_keys, *_keys_in(key_file)))
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise InvalidOption("TLS needs a certificate and its key: set both tls_cert and tls_key")
    return settings


def described_settings() -> Described:
    """Every setting with where it comes from. Raises: InvalidOption, as `server_settings`."""
    described = _server_options({})
    return Described([*_common_settings(), *described.settings], described.warnings)


def _common_settings() -> Iterator[Setting]:
    """The settings of every command."""
    yield Setting(
        "config", configuration_path(), "PUNA_CONFIG" if os.environ.get("PUNA_CONFIG") else "default"
    )
    for name, value in (
        ("MODELS", models_path()),
        ("NOPRUNE", keep_unused()),
        ("NOHISTORY", truth("NOHISTORY")),
        ("MAX_TRANSFER_STREAMS", transfer_streams()),
        ("GGML_PATH", ggml_path()),
    ):
        found = _found(name)
        yield Setting(name.lower(), value, found[0] if found else "default")


def _server_options(flags: Mapping[str, str]) -> Described:
    configured = configuration()
    table = configured.tables.get("server", {})
    if not isinstance(table, dict):
        raise InvalidOption(f"{configured.path}: server must be a table, [server]")
    known = {option.name for option in OPTIONS}
    unknown = next((name for name in table if name not in known), None)
    if unknown is not None:
        raise InvalidOption(f"{configured.path}: [server]: unknown key {unknown[:100]!r}")
    warnings: list[str] = []
    settings = [_resolved(option, flags, table, configured.path, warnings) for option in OPTIONS]
    return Described(settings, warnings)


def _resolved(
    option: Option, flags: Mapping[str, str], table: Mapping[str, Any], path: Path, warnings: list[str]
) -> Setting:
    """The option, from the first of flags, environment, configuration file and default that sets it."""
    if option.name in flags:
        origin = f"--{option.variable.lower().replace('_', '-')}"
        return Setting(option.name, _strict(option, flags[option.name], origin), origin, option.secret)
    found = _found(option.variable)
    if found is not None and option.strict:
        return Setting(option.name, _strict(option, found[1], found[0]), found[0], option.secret)
    if found is not None:
        try:
            return Setting(option.name, option.read(found[1]), found[0], option.secret)
        except ValueError as error:
            warnings.append(f"{found[0]} is passed over: {error}")
    if option.name in table:
        try:
            return Setting(option.name, from_table(option, table[option.name]), str(path), option.secret)
        except ValueError as error:
            raise InvalidOption(f"{path}: [server]: {option.name}: {error}") from error
    return Setting(option.name, getattr(ServerSettings(), option.name, None), "default", option.secret)


def _strict(option: Option, text: str, origin: str) -> Any:
    try:
        return option.read(text)
    except ValueError as error:
        raise InvalidOption(f"{origin}: {error}") from error


def _keys_in(path: Path) -> tuple[ApiKey, ...]:
    try:
        with path.open("rb") as file:
            return keys_of_file(file.read(_CONFIGURATION_LIMIT).decode())
    except OSError as error:
        raise InvalidOption(f"the file of API keys {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InvalidOption(f"the file of API keys {path}: {error}") from error


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
