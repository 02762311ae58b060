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


def keep_ggml_quiet() -> None:
    """Tells ggml, before it is loaded, not to start a debugger that prints a backtrace when it gives up."""
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
