"""Quantizing from a program that computes nothing itself: in a process that is gone afterwards."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from puna import settings
from puna.errors import BackendError
from puna.progress import Progress, Report
from puna.quantize.filetypes import FileType
from puna.quantize.messages import Failed, decoder, error_of

# What Ollama says: its client draws a bar for steps with a digest only.
_NO_DIGEST = "0000000000000000000"
_LAST_WORDS = 300


@dataclass(frozen=True, slots=True)
class Job:
    """What to make of a file.

    Attributes:
        source: a GGUF file of F32, F16 or BF16.
        origin: what it is called, such as `F16`.
        size: bytes of its tensors.
        imatrix: an importance matrix, if there is one.
        imatrix_name: what to call it in the new file.
    """

    source: Path
    origin: str
    size: int
    wanted: FileType
    imatrix: Path | None = None
    imatrix_name: str = ""


def quantize(job: Job, target: Path, report: Report) -> None:
    """Write the quantized file to `target`, whole or not at all. What `report` raises ends the work.

    Raises:
        InvalidOption, FormatError: the file cannot be quantized so.
        GGUFError: the target cannot be written.
        BackendError: the compute library is missing or has given up.
    """
    status = f"quantizing {job.origin} model to {job.wanted.name}"
    report(Progress(status, 0, job.size, _NO_DIGEST))
    with tempfile.TemporaryFile() as words, _started(_command(job, target), words) as process:
        for done in _heard(process):
            report(Progress(status, done, job.size, _NO_DIGEST))
        code = process.wait()
        if code:
            raise BackendError(_unexpected(code, words))
    report(Progress(status, job.size, job.size, _NO_DIGEST))


def _command(job: Job, target: Path) -> list[str]:
    command = [sys.executable, "-m", "puna.quantize", str(job.source), str(target), job.wanted.name]
    return command if job.imatrix is None else [*command, str(job.imatrix), job.imatrix_name]


@contextmanager
def _started(command: list[str], words: IO[bytes]) -> "Iterator[subprocess.Popen[bytes]]":
    """A process that is gone at the end of the block.

    It has a session of its own: a terminal's Ctrl-C is for this program to act on.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            env=settings.runner_environment(),
            start_new_session=True,
        )
    except OSError as error:
        raise BackendError(f"no process for quantizing can be started: {error.strerror or error}") from error
    with process:
        try:
            yield process
        finally:
            process.kill()


def _heard(process: "subprocess.Popen[bytes]") -> Iterator[int]:
    """How many bytes are read, again and again, until the process ends. Raises what it says went wrong."""
    for text in process.stdout or ():
        try:
            message = decoder.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BackendError(f"the quantizer said what cannot be understood: {text[:100]!r}") from error
        if isinstance(message, Failed):
            raise error_of(message)
        yield message.bytes


def _unexpected(code: int, words: IO[bytes]) -> str:
    words.seek(0, 2)
    words.seek(max(0, words.tell() - 4096))
    lines = words.read().decode("utf-8", "replace").split("\n")
    last = next((line.strip()[:_LAST_WORDS] for line in reversed(lines) if line.strip()), "")
    how = f"by signal {-code}" if code < 0 else f"with status {code}"
    return f"the quantizer ended {how}" + (f"; its last words: {last!r}" if last else "")
