"""The machine's memory, from texts as the kernel writes them and from the kernel itself."""

import sys
from pathlib import Path

import pytest

from puna.scheduler.memory import HostMemory, free_memory, from_meminfo, within_cgroup

MEMINFO = """MemTotal:       16326428 kB
MemFree:          443088 kB
MemAvailable:    8169832 kB
HugePages_Total:       0
"""
MACHINE = HostMemory(1000, 700)


def test_meminfo() -> None:
    assert from_meminfo(MEMINFO) == HostMemory(16326428 * 1024, 8169832 * 1024)


@pytest.mark.parametrize("text", ["", "MemTotal", "MemTotal:\nMemAvailable: x kB", "MemTotal: -5 kB\n"])
def test_a_meminfo_that_says_nothing(text: str) -> None:
    assert from_meminfo(text) == HostMemory(0, 0)


@pytest.mark.parametrize(
    ("limit", "current", "stat", "left"),
    [
        ("max", "300", "inactive_file 0", MACHINE),
        ("", "", "", MACHINE),
        ("5000\n", "300\n", "", MACHINE),
        ("500\n", "300\n", "anon 100\ninactive_file 0\n", HostMemory(500, 200)),
        ("500\n", "300\n", "anon 100\ninactive_file 150\n", HostMemory(500, 350)),
        ("500\n", "600\n", "", HostMemory(500, 0)),
        ("950\n", "100\n", "", HostMemory(950, 700)),
    ],
)
def test_limits_of_control_groups(limit: str, current: str, stat: str, left: HostMemory) -> None:
    assert within_cgroup(MACHINE, limit, current, stat) == left


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel's own files")
def test_of_this_machine() -> None:
    memory = free_memory()
    assert 0 < memory.available <= memory.total
    assert memory.total <= from_meminfo(Path("/proc/meminfo").read_text()).total
