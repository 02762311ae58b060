"""What a process holds, seen from outside: its children, memory, files; and waiting for it to change."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.served import Served

PATIENCE = 30.0


def wait_for(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Waits until the condition holds; it is an error if it does not in time."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """The processes that a process has started, and that are not reaped yet."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(number) for number in (task / "children").read_text().split()]
    return found


def descriptors(pid: int) -> int:
    """How many files and sockets a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid: int) -> int:
    """Bytes of memory that a process has of its own, now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def exists(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def in_memory(server: Served) -> dict[str, dict[str, Any]]:
    """The models of `/api/ps` by name."""
    return {model["name"]: model for model in server.get("/api/ps").json["models"]}


def figure(server: Served, name: str) -> float:
    """The sum of a metric over all its labels."""
    lines = server.get("/metrics").body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))
