"""Running a function in a child process that is killed at one of its system calls, by strace."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# What changes files or folders. A file is made by `openat` with O_CREAT.
_CHANGING = (
    *("write", "pwrite64", "writev", "pwritev", "ftruncate", "fallocate", "sendfile", "copy_file_range"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "fchmod", "chmod", "utimensat"),
    *("fsync", "fdatasync", "flock"),
)
_TRACED = ",".join(("openat", *_CHANGING))
_LINE = re.compile(r"(\d+) +([a-z0-9_]+)\((.*)")
_PR_SET_PTRACER, _ANY = 0x59616D61, ctypes.c_ulong(-1)
_ATTACH_LIMIT = 30.0


@dataclass(frozen=True, slots=True)
class KillPoint:
    """The moment before any thread does its `count`-th call of the system call `name`."""

    name: str
    count: int


def kill_points(action: Callable[[], object]) -> list[KillPoint]:
    """Runs `action` to its end in a child process; each call of it that changes the disk, in order.

    Which thread does how much may differ from run to run; then some of the points are not reached.
    """
    with tempfile.NamedTemporaryFile("r", suffix=".strace") as log:
        assert _traced(action, "-o", log.name, "-e", f"trace={_TRACED}") == 0
        counts: Counter[tuple[str, str]] = Counter()
        points: dict[KillPoint, None] = {}
        for line in log:
            if call := _LINE.match(line):
                thread, name, rest = call.groups()
                counts[thread, name] += 1
                if name != "openat" or "O_CREAT" in rest:
                    points[KillPoint(name, counts[thread, name])] = None
    return list(points)


def killed(action: Callable[[], object], point: KillPoint) -> bool:
    """Runs `action` in a child process that is killed at `point`; False if it ended before it got there."""
    inject = f"inject={point.name}:signal=KILL:when={point.count}"
    code = _traced(action, "-o", os.devnull, "-e", f"trace={point.name}", "-e", inject)
    assert code in (0, -signal.SIGKILL), f"the child ended with {code}"
    return code != 0


def _traced(action: Callable[[], object], *options: str) -> int:
    """The child's exit code, negative for a signal; 1 when `action` raised."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _be_child(action, reading, writing)
    os.close(reading)
    tracer = subprocess.Popen(
        ["strace", "-f", "-qqq", "-p", str(child), *options], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        _wait_for_tracer(child, tracer)
        os.write(writing, b"g")
    finally:
        os.close(writing)
        _, status = os.waitpid(child, 0)
        tracer.communicate()
    return os.waitstatus_to_exitcode(status)


def _be_child(action: Callable[[], object], reading: int, writing: int) -> None:
    code = 1
    try:
        os.close(writing)
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)
        if os.read(reading, 1):
            action()
            code = 0
    finally:
        # Nothing of the parent's may be run here: neither its cleaning up nor the rest of its tests.
        os._exit(code)


def _wait_for_tracer(child: int, tracer: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _ATTACH_LIMIT
    status = Path(f"/proc/{child}/status")
    while "\nTracerPid:\t0\n" in status.read_text():
        if tracer.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"strace cannot trace: {tracer.stderr.read() if tracer.stderr else ''!r}")
        time.sleep(0.001)
