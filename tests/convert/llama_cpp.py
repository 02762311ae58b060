"""llama.cpp's own converters, run as programs of their own; their sources come from the package index."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.build_llama_cpp import DEFAULT_CACHE, source

# It tells pre-tokenizers apart by what they make of one text, which small vocabularies cannot give the same.
_CONVERT = """
import json, sys
sys.path[:0] = [{source!r}, {source!r} + "/gguf-py"]
import conversion.base
import convert_hf_to_gguf
known = conversion.base.TextModel.get_vocab_base_pre
for folder, target, pre, *more in json.load(sys.stdin):
    conversion.base.TextModel.get_vocab_base_pre = lambda self, found, pre=pre: pre or known(self, found)
    sys.argv = ["convert", "--outtype", "bf16", "--outfile", target, folder, *more]
    convert_hf_to_gguf.main()
"""


_CONVERT_ADAPTERS = """
import json, runpy, sys
sys.path[:0] = [{source!r}, {source!r} + "/gguf-py"]
for folder, base, target in json.load(sys.stdin):
    sys.argv = ["convert", "--base", base, "--outfile", target, folder]
    runpy.run_path({source!r} + "/convert_lora_to_gguf.py", run_name="__main__")
"""


@dataclass(frozen=True, slots=True)
class Task:
    """A folder to convert.

    Attributes:
        pre: the name of its pre-tokenizer; empty to have it found out.
        sees: its image encoder is wanted, not its text.
    """

    folder: Path
    target: Path
    pre: str = ""
    sees: bool = False


@dataclass(frozen=True, slots=True)
class AdapterTask:
    """A folder with an adapter to convert, and that of the model it is for."""

    folder: Path
    base: Path
    target: Path


def convert_all(tasks: Sequence[Task]) -> None:
    """Convert to BF16, one after the other in one process."""
    _run(
        _CONVERT,
        [
            [str(task.folder), str(task.target), task.pre, *(["--mmproj"] if task.sees else [])]
            for task in tasks
        ],
    )


def convert_adapters(tasks: Sequence[AdapterTask]) -> None:
    """Convert to F32, one after the other in one process."""
    _run(_CONVERT_ADAPTERS, [[str(task.folder), str(task.base), str(task.target)] for task in tasks])


def _run(code: str, given: list[list[str]]) -> None:
    program = [sys.executable, "-c", code.format(source=str(source(DEFAULT_CACHE)))]
    done = subprocess.run(program, input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
