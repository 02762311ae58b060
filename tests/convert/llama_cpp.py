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
for folder, target, pre in json.load(sys.stdin):
    conversion.base.TextModel.get_vocab_base_pre = lambda self, found, pre=pre: pre or known(self, found)
    sys.argv = ["convert", "--outtype", "bf16", "--outfile", target, folder]
    convert_hf_to_gguf.main()
"""


@dataclass(frozen=True, slots=True)
class Task:
    """A folder to convert.

    Attributes:
        pre: the name of its pre-tokenizer; empty to have it found out.
    """

    folder: Path
    target: Path
    pre: str = ""


def convert_all(tasks: Sequence[Task]) -> None:
    """Convert to BF16, one after the other in one process."""
    given = json.dumps([[str(task.folder), str(task.target), task.pre] for task in tasks])
    code = _CONVERT.format(source=str(source(DEFAULT_CACHE)))
    done = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def convert_adapter(folder: Path, base: Path, target: Path) -> None:
    """Convert an adapter for the model in the folder `base`, in F32."""
    program = source(DEFAULT_CACHE) / "convert_lora_to_gguf.py"
    command = [sys.executable, str(program), "--base", str(base), "--outfile", str(target), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
