"""Settings from the environment: the only module that reads it.

Setting `X` is `PUNA_X`, else `OLLAMA_X`. Surrounding blanks and quotes are taken off a value, as Ollama does,
and an empty value counts as unset. Callers read a setting once, at the edge of the program, and pass it on.
"""

import os
from pathlib import Path


def variable(name: str) -> str | None:
    """The value of `PUNA_<name>`, else of `OLLAMA_<name>`, else None."""
    for prefix in ("PUNA_", "OLLAMA_"):
        value = os.environ.get(prefix + name, "").strip().strip("\"'")
        if value:
            return value
    return None


def models_path() -> Path:
    """The folder of the model store: `PUNA_MODELS`, else `OLLAMA_MODELS`, else `~/.ollama/models`."""
    configured = variable("MODELS")
    return Path(configured).expanduser() if configured else Path.home() / ".ollama" / "models"


def child_environment(temporary: Path) -> dict[str, str]:
    """The environment for a child process whose temporary files belong in `temporary`."""
    folder = str(temporary)
    return {**os.environ, "TMPDIR": folder, "TEMP": folder, "TMP": folder}


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
