"""llama.cpp's own tools, where `python bench/build_llama_cpp.py` has built them.

    python -m tests.quantize.oracle

records in mixtures.json which types its quantizer gives the tensors of the models of `architectures`.
"""

import json
import re
import subprocess
import tempfile
from array import array
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

from bench.build_llama_cpp import DEFAULT_CACHE
from tests.quantize.architectures import CASES, write_case

from puna.quantize.filetypes import NAMES
from puna.quantize.importance import Importance, Sums, write_importance

WEIGHTED = ("Q4_0", "Q5_0", "IQ4_NL", "IQ4_XS")
"""What an importance matrix changes the types of."""

RECORDED = Path(__file__).with_name("mixtures.json")

Types: TypeAlias = Mapping[str, str]
"""The types of tensors by name."""

Mixture: TypeAlias = dict[str, dict[str, str]]
"""The blocks that have a type, by the name of a tensor without its block and by the type: `0-2 5`."""

_TENSOR = re.compile(r"\[ *\d+/ *\d+\] +(\S+) +- .*type = +(\w+), size = +\S+ MiB(?: -> +\S+ MiB \((\w+)\))?")
# Words about rows that do not fit stand in lines of their own before the tensor's, or within it.
_ASIDE = re.compile(r"\n(?=warning:|\(WARNING|-> )")
_BLOCK = re.compile(r"blk\.(\d+)\.(.*)")


def tool(name: str) -> Path | None:
    """The program of that name, if it has been built."""
    path = DEFAULT_CACHE / "build" / "bin" / name
    return path if path.is_file() else None


def run(name: str, *arguments: str | Path) -> str:
    """What the program prints."""
    program = tool(name)
    assert program is not None
    done = subprocess.run(
        [program, *arguments], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.stdout


def tensor_types(source: Path, file_type: str, imatrix: Path | None = None) -> Types:
    """The types that llama.cpp's quantizer would give the tensors of `source`, in its order."""
    given = ("--imatrix", imatrix) if imatrix else ()
    text = _ASIDE.sub(" ", run("llama-quantize", "--dry-run", *given, source, file_type))
    found = filter(None, map(_TENSOR.match, text.splitlines()))
    return {match[1]: (match[3] or match[2]).upper() for match in found}


def mixture(types: Types) -> Mixture:
    """The types in short."""
    blocks: dict[str, dict[str, list[int]]] = {}
    for name, type_ in types.items():
        match = _BLOCK.fullmatch(name)
        numbers = blocks.setdefault(match[2] if match else name, {}).setdefault(type_, [])
        numbers.extend([int(match[1])] if match else [])
    return {name: {type_: _ranges(n) for type_, n in found.items()} for name, found in blocks.items()}


def _ranges(numbers: list[int]) -> str:
    runs = []
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        runs.append(f"{members[0]}-{members[-1]}" if len(members) > 1 else str(members[0]))
    return " ".join(runs)


def main() -> None:
    record: dict[str, dict[str, Mixture]] = {}
    with tempfile.TemporaryDirectory() as folder:
        some = Path(folder) / "imatrix.gguf"
        write_importance(some, Importance({"some": Sums(array("f", [1]), array("f", [1]))}, ("text",), 1, 1))
        for name, case in CASES.items():
            path = write_case(Path(folder) / "model.gguf", case)
            record[name] = {kind: mixture(tensor_types(path, kind)) for kind in NAMES}
            record[name] |= {f"{kind} weighted": mixture(tensor_types(path, kind, some)) for kind in WEIGHTED}
    lines = (
        f"  {json.dumps(name)}: {{\n"
        + ",\n".join(f"    {json.dumps(kind)}: {json.dumps(found)}" for kind, found in kinds.items())
        + "\n  }"
        for name, kinds in record.items()
    )
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
