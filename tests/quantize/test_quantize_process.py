"""The process that quantizes: what it tells, and that nothing is left of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.quantize.conftest import importance

from puna.errors import BackendError, FormatError, GGUFError, Interrupted, InvalidOption, PunaError
from puna.gguf import GGMLType, GGUFFile, GGUFWriter
from puna.progress import Progress
from puna.quantize.filetypes import file_type
from puna.quantize.importance import write_importance
from puna.quantize.process import Job, quantize

DEADLINE = 60.0


def job(source: Path, kind: str = "Q4_0", imatrix: Path | None = None) -> Job:
    return Job(source, "F16", 1000, file_type(kind), imatrix, "i.gguf")


def test_it_tells_how_far_it_is(model: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    quantize(job(model), tmp_path / "q.gguf", told.append)
    status = "quantizing F16 model to Q4_0"
    assert (told[0], told[-1]) == tuple(
        Progress(status, done, 1000, "0000000000000000000") for done in (0, 1000)
    )
    assert {step.status for step in told} == {status}
    with GGUFFile.open(tmp_path / "q.gguf") as file:
        assert file.metadata["general.file_type"] == 2


def test_an_importance_matrix_is_used_and_noted(model: Path, tmp_path: Path) -> None:
    write_importance(tmp_path / "i.gguf", importance())
    quantize(job(model, "Q2_K_S", tmp_path / "i.gguf"), tmp_path / "q.gguf", lambda step: None)
    with GGUFFile.open(tmp_path / "q.gguf") as file:
        noted = {key: file.metadata[key] for key in file.metadata if key.startswith("quantize.")}
    assert noted == {
        "quantize.imatrix.file": "i.gguf",
        "quantize.imatrix.dataset": "a text.txt",
        "quantize.imatrix.entries_count": len(importance().sums),
        "quantize.imatrix.chunks_count": 3,
    }


@pytest.mark.parametrize(
    ("source", "kind", "target", "error", "message"),
    [
        ("model", "Q2_K_S", "q.gguf", InvalidOption, "^Q2_K_S needs an importance matrix"),
        ("model", "Q4_0", "no/q.gguf", GGUFError, "cannot be written: No such file"),
        ("nowhere", "Q4_0", "q.gguf", GGUFError, "there is no such file"),
        ("quantized", "Q8_0", "q.gguf", InvalidOption, r"models; tensor 'output\.weight' is Q6_K$"),
    ],
)
def test_what_goes_wrong_there_is_raised_here(
    source: str, kind: str, target: str, error: type[PunaError], message: str, model: Path, tmp_path: Path
) -> None:
    places = {"model": model, "nowhere": tmp_path / "nowhere", "quantized": tmp_path / "quantized"}
    if source == "quantized":
        quantize(job(model), places[source], lambda step: None)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=message):
        quantize(job(places[source], kind), tmp_path / target, lambda step: None)
    assert sorted(tmp_path.iterdir()) == before


def test_a_matrix_that_is_none(model: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is no importance matrix"):
        quantize(job(model, imatrix=model), tmp_path / "q.gguf", lambda step: None)


def test_a_process_that_is_killed(large: Path, tmp_path: Path) -> None:
    def kill(step: Progress) -> None:
        if step.completed and not killed:
            killed.extend(quantizers(large))
            os.kill(killed[0], signal.SIGKILL)

    killed: list[int] = []
    with pytest.raises(BackendError, match=r"^the quantizer ended by signal 9$"):
        quantize(job(large, "IQ4_NL"), tmp_path / "q.gguf", kill)
    assert not (tmp_path / "q.gguf").exists()


def test_what_the_report_raises_ends_the_work(large: Path, tmp_path: Path) -> None:
    def stop(step: Progress) -> None:
        if step.completed:
            assert quantizers(large)
            raise Interrupted("enough")

    with pytest.raises(Interrupted, match="enough"):
        quantize(job(large, "IQ4_NL"), tmp_path / "q.gguf", stop)
    assert quantizers(large) == []
    assert not (tmp_path / "q.gguf").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_runs_on_when_the_program_is_killed(number: int, large: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from puna.quantize.filetypes import file_type; from puna.quantize.process import Job, quantize\n"
        "job = Job(Path(sys.argv[1]), 'F16', 1, file_type('IQ4_NL'))\n"
        "quantize(job, Path(sys.argv[2]), lambda step: print(step.completed, flush=True))\n"
    )
    command = [sys.executable, "-c", code, str(large), str(tmp_path / "q.gguf")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as program:
        assert program.stdout is not None
        while not int(program.stdout.readline()):
            pass
        assert quantizers(large)
        program.send_signal(number)
    wait_until(lambda: not quantizers(large))
    assert not (tmp_path / "q.gguf").exists()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes many seconds to be made IQ4_NL."""
    path = tmp_path_factory.mktemp("large") / "model.gguf"
    values = np.random.default_rng(0).standard_normal((16, 2048, 1024), np.float32).astype(np.float16)
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", "llama")
        writer.add("llama.block_count", 16)
        for number, matrix in enumerate(values):
            writer.add_tensor(f"blk.{number}.attn_q.weight", GGMLType.F16, matrix.shape, matrix)
    return path


def quantizers(source: Path) -> list[int]:
    """The processes that are at work on a file."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0") if folder.name.isdecimal() else []
        except OSError:
            continue
        if b"puna.quantize" in words and bytes(source) in words:
            found.append(int(folder.name))
    return found


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
