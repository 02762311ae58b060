"""The generated tables against the headers of the installed ggml, and the engine's use against the tables."""

import ctypes
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from enum import EnumType, IntEnum
from pathlib import Path
from typing import Any

import pytest

from puna.ggml import enums, layouts
from puna.ggml.functions import CHANGED, FUNCTIONS
from puna.gguf import GGMLType

ROOT = Path(__file__).parents[2]
SOURCES = [file for file in (ROOT / "src/puna").rglob("*.py") if file.name != "functions.py"]


def generate(headers: Path, out: Path) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "scripts/generate_ggml.py")
    command = [sys.executable, script, str(headers), "--version", "test", "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def generated(prebuilt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script writes from the headers of the prebuilt library alone."""
    out = tmp_path_factory.mktemp("generated")
    done = generate(prebuilt.parent / "include", out)
    assert done.returncode == 0, done.stderr
    return out


def used_functions() -> set[str]:
    return {name for file in SOURCES for name in re.findall(r"\.(ggml_\w+)\(", file.read_text("utf-8"))}


def test_signatures_are_those_of_the_headers(generated: Path) -> None:
    declared = runpy.run_path(str(generated / "functions.py"))["FUNCTIONS"]
    assert len(declared) > 500
    for name, form in declared.items():
        assert form in (FUNCTIONS[name], *CHANGED.get(name, ())), name


def test_enumerators_are_those_of_the_headers(generated: Path) -> None:
    declared = runpy.run_path(str(generated / "enums.py"))
    classes = [value for value in declared.values() if isinstance(value, EnumType) and value is not IntEnum]
    assert len(classes) > 15
    for enumeration in classes:
        ours = getattr(enums, enumeration.__name__).__members__
        assert {name: ours[name] for name in enumeration.__members__} == enumeration.__members__


def test_constants_are_those_of_the_headers(generated: Path) -> None:
    declared = runpy.run_path(str(generated / "enums.py"))
    numbers = {name: value for name, value in declared.items() if name.startswith("GGML_")}
    assert numbers["GGML_MAX_DIMS"] == 4
    assert {name: getattr(enums, name) for name in numbers} == numbers


def test_layouts_begin_as_in_the_headers(generated: Path) -> None:
    declared = runpy.run_path(str(generated / "layouts.py"))
    kinds = {name: value for name, value in declared.items() if name.startswith("ggml_")}
    assert len(kinds) == 10
    for name, structure in kinds.items():
        ours = getattr(layouts, name)
        for field, *_ in structure._fields_:
            wanted, found = getattr(structure, field), getattr(ours, field)
            assert (found.offset, found.size) == (wanted.offset, wanted.size), f"{name}.{field}"


def test_a_header_that_is_not_understood_stops_the_script(prebuilt: Path, tmp_path: Path) -> None:
    for header in (prebuilt.parent / "include").glob("ggml*.h"):
        text = header.read_text("utf-8").replace(
            "GGML_API size_t  ggml_nbytes ", "GGML_API novelty ggml_nbytes "
        )
        (tmp_path / header.name).write_text(text, "utf-8")
    done = generate(tmp_path, tmp_path)
    assert done.returncode == 1
    assert "unknown type 'novelty'" in done.stderr
    assert not (tmp_path / "functions.py").exists()


def test_tensor_types_are_those_of_gguf() -> None:
    ours = {kind.name: kind.value for kind in enums.Type}
    assert {kind.name: kind.value for kind in GGMLType if kind.name in ours} == {
        name: value for name, value in ours.items() if name in GGMLType.__members__
    }
    assert len(set(ours) & set(GGMLType.__members__)) > 30


def test_everything_puna_calls_is_declared() -> None:
    used = used_functions()
    assert len(used) > 50
    assert used <= set(FUNCTIONS)


def test_everything_puna_calls_is_exported_by_the_prebuilt_library(
    prebuilt: Path, answer: Callable[[str, Path], Any]
) -> None:
    needed = sorted(name for name in used_functions() if "_rpc_" not in name)
    code = (
        "import json, puna.ggml; library = puna.ggml.load()\n"
        f"print(json.dumps([name for name in {needed} if not library.has(name)]))"
    )
    assert answer(code, prebuilt) == []


def test_a_structure_by_value_has_the_size_c_gives_it() -> None:
    assert ctypes.sizeof(layouts.ggml_init_params) == 24
    assert ctypes.sizeof(layouts.ggml_tensor) == 336
    assert ctypes.sizeof(layouts.ggml_threadpool_params) == 528
