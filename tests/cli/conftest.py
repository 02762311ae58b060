"""The command line as a user starts it: in a process of its own, with a store of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tests.tiny_llama import write_tiny_llama

from puna.gguf import GGUFFile
from puna.gguf.writer import GGUFWriter

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)

# Registries are asked through a proxy that does not answer, so that no packet leaves this machine.
NOWHERE = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}

Puna = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    """The environment of the child: its own home, and so its own store; no registry, no package index."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PUNA_", "OLLAMA_", "PIP_", "TERM"))
    }
    nowhere = {
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
    }
    return {
        **kept,
        "HOME": str(home),
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "COLUMNS": "80",
        # Nobody listens there: a server of the machine must not be found.
        "PUNA_HOST": "127.0.0.1:1",
        **nowhere,
    }


@pytest.fixture
def puna(environment: Mapping[str, str], tmp_path: Path) -> Puna:
    """Runs `puna` with these arguments and this standard input."""

    def run(*arguments: str | Path, given: str = "", **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "puna", *map(str, arguments)],
            input=given,
            capture_output=True,
            encoding="utf-8",
            env={**environment, **more},
            cwd=tmp_path,
            timeout=60,
        )

    return run


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that continues text."""
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "base.gguf")


@pytest.fixture(scope="session")
def chat_model(base_model: Path) -> Path:
    """The same with a chat template."""
    path = base_model.with_name("chat.gguf")
    with GGUFFile.open(base_model) as source, GGUFWriter(path) as writer:
        for key in source.metadata:
            writer.add(key, source.metadata[key])
        writer.add("tokenizer.chat_template", CHAT_TEMPLATE)
        for name, tensor in source.tensors.items():
            writer.add_tensor(name, tensor.type, tensor.shape, bytes(source.tensor_bytes(name)))
    return path
