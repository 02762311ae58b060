"""How much memory the machine has, and how much of it is free."""

import os
from dataclasses import dataclass
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_OWN_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Bytes of the machine's memory, or of the part that this process may use; 0 where unknown.

    Attributes:
        total: all of it.
        available: what programs can have without others being swapped out.
    """

    total: int = 0
    available: int = 0


def free_memory() -> HostMemory:
    """The memory as it is now.

    On Linux from /proc/meminfo, within the limits of the control groups (version 2) the process is in.
    """
    meminfo = _text(_MEMINFO)
    if not meminfo:
        return _from_sysconf()
    memory = from_meminfo(meminfo)
    for folder in _cgroup_folders(_text(_OWN_CGROUP)):
        files = (_text(folder / name) for name in ("memory.max", "memory.current", "memory.stat"))
        memory = within_cgroup(memory, *files)
    return memory


def from_meminfo(text: str) -> HostMemory:
    """What the text of /proc/meminfo says; see proc_meminfo(5)."""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return HostMemory(_kilobytes(fields.get("MemTotal", "")), _kilobytes(fields.get("MemAvailable", "")))


def within_cgroup(memory: HostMemory, limit: str, current: str, stat: str) -> HostMemory:
    """The memory that a control group leaves of it, by the texts of its memory.max, .current and .stat.

    Pages of files that were not used lately count as taken there, but are given back when they are wanted.
    """
    if not limit.strip().isdecimal() or not current.strip().isdecimal():
        return memory
    total = int(limit)
    words = dict(line.split(" ", 1) for line in stat.splitlines() if " " in line)
    reclaimable = words.get("inactive_file", "0").strip()
    taken = int(current) - (int(reclaimable) if reclaimable.isdecimal() else 0)
    available = max(0, total - max(0, taken))
    return HostMemory(min(memory.total, total), min(memory.available, available))


def _cgroup_folders(own: str) -> list[Path]:
    """The folder of the process's control group and those above it that can have limits."""
    path = next((line[3:] for line in own.splitlines() if line.startswith("0::/")), "/")
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [_CGROUPS.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]


def _kilobytes(field: str) -> int:
    number = field.split()[:1]
    return int(number[0]) * 1024 if number and number[0].isdecimal() else 0


def _from_sysconf() -> HostMemory:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return HostMemory()
    try:
        return HostMemory(total, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))
    except (ValueError, OSError):
        return HostMemory(total, total)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
