"""Each installed ggml in a process of its own, and the errors of one that cannot be used."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import puna.ggml
from puna.errors import BackendError
from puna.ggml import ABORT_STATUS, Candidate, Library, access, library, processor
from puna.ggml.locate import PREFIX, SUFFIX
from puna.settings import prepare_ggml

RunPython = Callable[..., subprocess.CompletedProcess[str]]
PYTHON_API = 4  # ctypes' flag of functions that keep the interpreter lock

MATRICES = """
import json, numpy as np, puna.ggml
from puna.ggml.layouts import ggml_init_params
from puna.ggml.enums import Type
l = puna.ggml.load()
context = l.ggml_init(ggml_init_params(1 << 20, None, True))
a = l.ggml_new_tensor_2d(context, Type.F32, 64, 5)
b = l.ggml_new_tensor_2d(context, Type.F32, 64, 3)
y = l.ggml_mul_mat(context, a, b)
"""

COMPUTE = (
    MATRICES
    + """
cpu = l.ggml_backend_cpu_init()
buffer = l.ggml_backend_alloc_ctx_tensors(context, cpu)
graph = l.ggml_new_graph(context)
l.ggml_build_forward_expand(graph, y)
values = [np.arange(n * 64, dtype=np.float32) / (n * 64) for n in (5, 3)]
for tensor, content in zip((a, b), values):
    l.ggml_backend_tensor_set(tensor, content.ctypes.data, 0, content.nbytes)
status = l.ggml_backend_graph_compute(cpu, graph)
out = np.empty(15, np.float32)
l.ggml_backend_tensor_get(y, out.ctypes.data, 0, out.nbytes)
print(json.dumps([status, list(l.tensor(y).ne), out.tolist(), l.origin, str(l.folder)]))
"""
)


def test_a_graph_computes_right(installed: Candidate, answer: Callable[[str, Path], Any]) -> None:
    status, shape, out, origin, folder = answer(COMPUTE, installed.folder)
    a, b = (np.arange(n * 64, dtype=np.float64).reshape(n, 64) / (n * 64) for n in (5, 3))
    assert (status, shape, origin, folder) == (0, [5, 3, 1, 1], "path", str(installed.folder))
    np.testing.assert_allclose(np.reshape(out, (3, 5)), b @ a.T, rtol=2e-3)


def test_giving_up_is_one_line_and_the_defined_status(installed: Candidate, run_python: RunPython) -> None:
    code = MATRICES + "print('said before', end='')\nl.ggml_mul_mat(context, a, y)\nprint('never')"
    done = run_python(code, ggml=installed.folder)
    assert (done.returncode, done.stdout) == (ABORT_STATUS, "said before")
    assert done.stderr.startswith("puna: ggml: ")
    assert done.stderr.endswith("GGML_ASSERT(ggml_can_mul_mat(a, b)) failed\n")
    assert done.stderr.count("\n") == 1


def test_the_host_hears_of_it_first(prebuilt: Path, run_python: RunPython) -> None:
    code = (
        MATRICES + "l.on_abort = lambda m: print('heard', 'can_mul_mat' in m)\nl.ggml_mul_mat(context, a, y)"
    )
    done = run_python(code, ggml=prebuilt)
    assert (done.returncode, done.stdout) == (ABORT_STATUS, "heard True\n")


def test_a_host_that_fails_changes_nothing(prebuilt: Path, run_python: RunPython) -> None:
    code = MATRICES + "l.on_abort = lambda m: 1 / 0\nl.ggml_mul_mat(context, a, y)"
    done = run_python(code, ggml=prebuilt)
    assert (done.returncode, done.stderr.count("puna: ggml: ")) == (ABORT_STATUS, 1)


def test_nothing_is_printed_and_the_log_is_kept(installed: Candidate, run_python: RunPython) -> None:
    code = (
        "import puna.ggml; l = puna.ggml.load(); l.ggml_backend_load(b'/nowhere/at/all.so');"
        "print(l.failure('no backend'))"
    )
    done = run_python(code, ggml=installed.folder)
    assert done.stderr == ""
    assert done.stdout.startswith("no backend: ")
    assert "/nowhere/at/all.so" in done.stdout


def test_the_log_forgets(prebuilt: Path, run_python: RunPython) -> None:
    code = (
        "import puna.ggml; l = puna.ggml.load()\n"
        "for i in range(200): l.ggml_backend_load(b'/nowhere/%d.so' % i)\n"
        "print(len(l.log), '/nowhere/199.so' in l.log[-1])"
    )
    assert run_python(code, ggml=prebuilt).stdout == "64 True\n"


def test_one_process_holds_one_library(tmp_path: Path) -> None:
    loaded = puna.ggml.load()
    assert puna.ggml.load() is loaded
    assert puna.ggml.load(loaded.folder) is loaded
    (tmp_path / f"{PREFIX}ggml{SUFFIX}").touch()
    with pytest.raises(BackendError, match=r"already loaded from .*; start a new process"):
        puna.ggml.load(tmp_path)


def test_only_calls_that_take_long_release_the_interpreter_lock() -> None:
    loaded = puna.ggml.load()
    for name in ("ggml_mul_mat", "ggml_view_3d", "ggml_build_forward_expand", "ggml_set_name", "ggml_nbytes"):
        assert getattr(loaded, name)._flags_ & PYTHON_API, name
    for name in (
        "ggml_backend_graph_compute",
        "ggml_backend_sched_graph_compute_async",
        "ggml_backend_sched_reserve",
        "ggml_backend_tensor_set",
        "ggml_backend_alloc_ctx_tensors_from_buft",
        "ggml_gallocr_alloc_graph",
        "ggml_quantize_chunk",
        "ggml_backend_synchronize",
    ):
        assert not getattr(loaded, name)._flags_ & PYTHON_API, name


def test_a_function_that_ggml_does_not_declare() -> None:
    with pytest.raises(AttributeError, match="ggml has no function ggml_novelty"):
        puna.ggml.load().ggml_novelty()


def test_a_function_that_this_build_lacks(prebuilt: Path, run_python: RunPython) -> None:
    code = (
        "import puna.ggml, puna.errors; l = puna.ggml.load()\n"
        "print(l.has('ggml_backend_rpc_add_server'))\n"
        "try: l.ggml_backend_rpc_add_server(b'localhost:1')\n"
        "except puna.errors.BackendError as error: print(error)"
    )
    has, message = run_python(code, ggml=prebuilt).stdout.splitlines()
    assert has == "False"
    assert message.startswith("ggml 0.20.2 in ")
    assert message.endswith("has no function ggml_backend_rpc_add_server; install another build")


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}ggml{SUFFIX}").write_text("not a library")
    with pytest.raises(BackendError, match="cannot be loaded as a part of ggml"):
        Library(Candidate("path", tmp_path))


def test_a_library_that_is_not_ggml(tmp_path: Path) -> None:
    other = next(Path(np.__file__).parent.rglob(f"_multiarray_umath*{SUFFIX}"))
    shutil.copy(other, tmp_path / f"{PREFIX}ggml{SUFFIX}")
    with pytest.raises(BackendError, match="has no function ggml_version"):
        Library(Candidate("path", tmp_path))


def test_a_library_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "OLDEST", (99, 0))
    with pytest.raises(BackendError, match=r"is too old; Puna needs 99\.0 or newer"):
        Library(Candidate("path", puna.ggml.load().folder))


def test_a_library_laid_out_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "OBJECT_HEADER", 40)
    with pytest.raises(BackendError, match=r"another binary layout .*bytes, not 376"):
        library.check_layout(puna.ggml.load())


def test_a_library_compiled_for_another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "features", frozenset)
    with pytest.raises(BackendError, match=r"compiled for a processor with .*, which this one lacks"):
        library.check_processor(puna.ggml.load())


@pytest.mark.parametrize(
    ("chosen", "spin"), [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(
    chosen: dict[str, str], spin: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP_", "OMP_"))}
    monkeypatch.setattr(os, "environ", environment | chosen)
    prepare_ggml()
    assert os.environ.get("GOMP_SPINCOUNT") == spin
    assert os.environ["GGML_NO_BACKTRACE"] == "1"


def test_the_tensor_fields_are_live() -> None:
    loaded = puna.ggml.load()
    context = access.new_context(loaded, 4096)
    tensor = loaded.ggml_new_tensor_2d(context, 0, 7, 3)
    assert json.dumps(list(loaded.tensor(tensor).nb)) == "[4, 28, 84, 84]"
    loaded.tensor(tensor).nb[1] = 32
    assert loaded.ggml_nbytes(tensor) == 28 + 2 * 32
    loaded.ggml_free(context)
