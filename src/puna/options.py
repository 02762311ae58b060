"""The server's settings: what there is, what a text for each means, and what it is without one.

The one table of settings; `puna.settings` finds the texts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puna.variables import Endpoint, endpoint, seconds, size, stall_seconds, truth, unsigned, words

OLLAMA_VERSION = "0.35.0"
"""The release of Ollama whose API this is; its clients ask for one and compare."""

INFERENCE, MANAGE = "inference", "manage"
SCOPES = frozenset({INFERENCE, MANAGE})
"""What a key may open: asking models, and changing which there are."""

MEMORY, FILE, OFF = RESPONSES = ("memory", "file", "off")
"""Where answers of /v1/responses are kept."""

_SHORTEST_SECRET = 16
_DIGEST_SIZE = 32
# Those of `logging`, which takes too long to import here; 5 is below all that it names.
_INFO, _DEBUG = 20, 10
_LEVELS = {-2: 40, -1: 30, 0: _INFO, 1: _DEBUG, 2: 5}


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that clients show.

    Attributes:
        name: for logs; no secret.
        digest: SHA-256 of the secret.
        scopes: what it opens.
        max_concurrent: requests that may run with it at once; 0 for any number.
    """

    name: str
    digest: bytes = field(repr=False)
    scopes: frozenset[str] = SCOPES
    max_concurrent: int = 0


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How the server is to run. `docs/server.md` says what each means to a user.

    Attributes:
        listen: where; an empty host is every address.
        hosts: names besides its own under which it may be asked for; `*` for any.
        origins: of web pages that may use it, besides those of this machine.
        api_keys: whoever has one of these may use it; none leaves it open to all that reach it.
        insecure_no_keys: it may listen on a network without keys.
        keep_alive: seconds that a model stays loaded after its last use; infinite for ever.
        load_timeout: seconds without progress after which a load is given up; infinite for never.
        context_length: tokens of a model's context where nobody says; 0 lets the model decide.
        num_parallel: requests that a model computes at once; None lets the memory decide.
        max_loaded_models: 0 lets the number of devices decide.
        max_queue: requests that may wait for a model.
        max_keep_alive: most seconds that a request can keep a model; infinite for any time.
        max_ctx: most tokens of context that a request can ask for; 0 for any number.
        step_timeout: seconds without a step after which a model with requests is taken for hung and ended;
            infinite for never.
        runner_memory: most bytes of memory of its own that a model's process may take, besides the files it
            maps; 0 for any number.
        flash_attention: None leaves it to the device.
        gpu_overhead: bytes of each GPU to leave alone.
        sched_spread: use all GPUs even for what fits into one.
        log_level: of Python's `logging`.
        log_format: `text` or `json`.
        metrics: whether `/metrics` is there.
        max_body: bytes of a request's body, but for files of models.
        max_messages, max_images: of a conversation.
        max_stops, max_stop_length: texts that end an answer, and characters of one of them.
        max_inputs: texts to embed, and documents to rank.
        max_opened_models, max_opened_bytes: models whose tokenizers are kept at hand, and roughly the bytes
            that these take.
        prompt_threads: prompts that are made at the same time.
        header_timeout, body_timeout, idle_timeout, write_timeout: seconds that a client may take for a
            request's head, for its body, between two requests, and to take in what is sent.
        max_connections: open at once.
        max_transfers: pulls, pushes and creations at once.
        responses: where answers of /v1/responses are kept for their clients; one of `RESPONSES`.
        shutdown_grace: seconds that running requests get when the server is told to stop.
        api_version: of Ollama, as clients are told.
        warnings: about values that were passed over.
    """

    listen: Endpoint = field(default_factory=Endpoint)
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    api_keys: tuple[ApiKey, ...] = ()
    insecure_no_keys: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    keep_alive: float = 300.0
    load_timeout: float = 300.0
    context_length: int = 0
    num_parallel: int | None = None
    max_loaded_models: int = 0
    max_queue: int = 512
    max_keep_alive: float = math.inf
    max_ctx: int = 0
    step_timeout: float = 300.0
    runner_memory: int = 0
    kv_cache_type: str = "f16"
    flash_attention: bool | None = None
    gpu_overhead: int = 0
    sched_spread: bool = False
    log_level: int = _INFO
    log_format: str = "text"
    metrics: bool = False
    max_body: int = 100 << 20
    max_messages: int = 16_384
    max_images: int = 64
    max_stops: int = 64
    max_stop_length: int = 1024
    max_inputs: int = 2048
    max_opened_models: int = 16
    max_opened_bytes: int = 2 << 30
    prompt_threads: int = 4
    header_timeout: float = 20.0
    body_timeout: float = 300.0
    idle_timeout: float = 75.0
    write_timeout: float = 120.0
    max_connections: int = 1024
    max_transfers: int = 16
    responses: str = MEMORY
    shutdown_grace: float = 10.0
    api_version: str = OLLAMA_VERSION
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Option:
    """One setting.

    Attributes:
        name: of the field of ServerSettings, if it has one, and of the key in the configuration file.
        variable: the environment's, without its prefix.
        read: what a text means; raises ValueError.
        strict: a text without meaning is an error also in the environment. Of others, Ollama's among them,
            it is told, and the default counts.
        secret: nobody is shown its value.
    """

    name: str
    variable: str
    read: Callable[[str], Any]
    strict: bool = False
    secret: bool = False


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _level(text: str) -> int:
    """A level of `logging` by Ollama's rule: a truth, or a number that counts the other way round."""
    try:
        return _LEVELS.get(int(text), _INFO)
    except ValueError:
        return _DEBUG if truth(text) else _INFO


def _format(text: str) -> str:
    if text not in ("text", "json"):
        raise ValueError(f"{text[:100]!r} is neither text nor json")
    return text


def _place(text: str) -> str:
    if text not in RESPONSES:
        raise ValueError(f"{text[:100]!r} is neither memory, file nor off")
    return text


def _count(text: str) -> int:
    return unsigned(text) or 1


def _positive(text: str) -> float:
    value = seconds(text)
    if value <= 0:
        raise ValueError(f"{text[:100]!r} is no time above 0")
    return value


def _keys(text: str) -> tuple[ApiKey, ...]:
    return tuple(api_key(secret, f"key-{number}") for number, secret in enumerate(words(text), 1))


OPTIONS = (
    Option("listen", "HOST", endpoint),
    Option("hosts", "HOSTS", words),
    Option("origins", "ORIGINS", words),
    Option("api_keys", "API_KEYS", _keys, strict=True, secret=True),
    Option("api_key_file", "API_KEY_FILE", _path, strict=True),
    Option("insecure_no_keys", "INSECURE_NO_KEYS", truth),
    Option("tls_cert", "TLS_CERT", _path, strict=True),
    Option("tls_key", "TLS_KEY", _path, strict=True),
    Option("keep_alive", "KEEP_ALIVE", seconds),
    Option("load_timeout", "LOAD_TIMEOUT", stall_seconds),
    Option("context_length", "CONTEXT_LENGTH", unsigned),
    Option("num_parallel", "NUM_PARALLEL", _count),
    Option("max_loaded_models", "MAX_LOADED_MODELS", unsigned),
    Option("max_queue", "MAX_QUEUE", unsigned),
    Option("max_keep_alive", "MAX_KEEP_ALIVE", seconds, strict=True),
    Option("max_ctx", "MAX_CTX", unsigned, strict=True),
    Option("step_timeout", "STEP_TIMEOUT", stall_seconds, strict=True),
    Option("runner_memory", "RUNNER_MEMORY", size, strict=True),
    Option("kv_cache_type", "KV_CACHE_TYPE", str.lower),
    Option("flash_attention", "FLASH_ATTENTION", truth),
    Option("gpu_overhead", "GPU_OVERHEAD", size),
    Option("sched_spread", "SCHED_SPREAD", truth),
    Option("log_level", "DEBUG", _level),
    Option("log_format", "LOG_FORMAT", _format, strict=True),
    Option("metrics", "METRICS", truth),
    Option("max_body", "MAX_BODY", size, strict=True),
    Option("max_messages", "MAX_MESSAGES", unsigned, strict=True),
    Option("max_images", "MAX_IMAGES", unsigned, strict=True),
    Option("max_stops", "MAX_STOPS", unsigned, strict=True),
    Option("max_stop_length", "MAX_STOP_LENGTH", unsigned, strict=True),
    Option("max_inputs", "MAX_INPUTS", unsigned, strict=True),
    Option("max_opened_models", "MAX_OPENED_MODELS", _count, strict=True),
    Option("max_opened_bytes", "MAX_OPENED_BYTES", size, strict=True),
    Option("prompt_threads", "PROMPT_THREADS", _count, strict=True),
    Option("header_timeout", "HEADER_TIMEOUT", _positive, strict=True),
    Option("body_timeout", "BODY_TIMEOUT", _positive, strict=True),
    Option("idle_timeout", "IDLE_TIMEOUT", _positive, strict=True),
    Option("write_timeout", "WRITE_TIMEOUT", _positive, strict=True),
    Option("max_connections", "MAX_CONNECTIONS", _count, strict=True),
    Option("max_transfers", "MAX_TRANSFERS", _count, strict=True),
    Option("responses", "RESPONSES", _place, strict=True),
    Option("shutdown_grace", "SHUTDOWN_GRACE", seconds, strict=True),
    Option("api_version", "API_VERSION", str),
)


def api_key(secret: str, name: str, scopes: frozenset[str] = SCOPES, max_concurrent: int = 0) -> ApiKey:
    """The key with that secret. Raises: ValueError when the secret is too short, or no text for a header."""
    from hashlib import sha256  # few commands need it

    if len(secret) < _SHORTEST_SECRET or not (
        secret.isascii() and secret.isprintable() and " " not in secret
    ):
        raise ValueError(
            f"an API key has at least {_SHORTEST_SECRET} printable ASCII characters, without blanks;"
            " `openssl rand -hex 32` makes one"
        )
    return ApiKey(name, sha256(secret.encode()).digest(), scopes, max_concurrent)


def keys_of_file(text: str) -> tuple[ApiKey, ...]:
    """The keys in a file: a line each, the secret, and after a blank its scopes with commas between.

    Empty lines and those that begin with # say nothing. Raises: ValueError; names the line, not the secret.
    """
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        secret, _, scopes = line.strip().partition(" ")
        if not secret or secret.startswith("#"):
            continue
        try:
            keys.append(api_key(secret, f"line-{number}", _scopes(words(scopes))))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return tuple(keys)


def keys_of_tables(tables: Any) -> tuple[ApiKey, ...]:
    """The keys of the configuration file: texts, or tables with `name`, `secret` or `sha256`, `scopes`,
    `max_concurrent`. Raises: ValueError.
    """
    if not isinstance(tables, list):
        raise ValueError("api_keys must be a list")
    return tuple(
        api_key(table, f"key-{number}") if isinstance(table, str) else _key_of_table(table, number)
        for number, table in enumerate(tables, 1)
    )


def _key_of_table(table: Any, number: int) -> ApiKey:
    known = {"name": str, "secret": str, "sha256": str, "scopes": list, "max_concurrent": int}
    if not isinstance(table, dict):
        raise ValueError("a key is a text or a table")
    for key, value in table.items():
        if not isinstance(value, known.get(key, ())) or isinstance(value, bool):
            raise ValueError(f"a key has {', '.join(known)}, each of its type; wrong is {key[:100]!r}")
    if ("secret" in table) == ("sha256" in table):
        raise ValueError("a key has either secret or sha256")
    name, most = table.get("name", f"key-{number}"), table.get("max_concurrent", 0)
    scopes = _scopes(table.get("scopes", []))
    if "secret" in table:
        return api_key(table["secret"], name, scopes, most)
    try:
        digest = bytes.fromhex(table["sha256"])
    except ValueError:
        digest = b""
    if len(digest) != _DIGEST_SIZE:
        raise ValueError("the sha256 of a key is 64 hexadecimal digits")
    return ApiKey(name, digest, scopes, most)


def _scopes(names: Any) -> frozenset[str]:
    """The scopes of these names; all where none is named."""
    for name in names:
        if name not in SCOPES:
            raise ValueError(f"the scopes of a key are {', '.join(sorted(SCOPES))}, not {str(name)[:100]!r}")
    return frozenset(names) or SCOPES


def from_table(option: Option, value: Any) -> Any:
    """What a value of the configuration file means for an option. Raises: ValueError."""
    if option.name == "api_keys":
        return keys_of_tables(value)
    if option.read is words and isinstance(value, list) and all(isinstance(word, str) for word in value):
        return tuple(value)
    if isinstance(value, bool):
        if option.read is not truth and option.name != "log_level":
            raise ValueError("it is neither true nor false")
        return option.read(str(value).lower())
    if isinstance(value, float) and option.read in (seconds, stall_seconds, _positive):
        return option.read(f"{value}s")
    if isinstance(value, str | int):
        return option.read(str(value))
    raise ValueError(f"{str(value)[:100]!r} has the wrong type")
