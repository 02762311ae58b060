"""Memory that is touched while others work."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from puna.ml.backends.ggml.pages import Toucher, address, zeroed

SIZE = 96 << 20

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a way to touch pages")


def resident() -> int:
    """Bytes of this process that are in memory."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))


def until_resident(size: int) -> None:
    for _ in range(1000):
        if resident() >= size:
            return
        time.sleep(0.02)
    raise AssertionError(f"{resident()} bytes are in memory, not {size}")


def test_it_is_zero_and_begins_at_a_page() -> None:
    memory = zeroed(1 << 20)
    assert address(memory) % 4096 == 0
    assert not np.frombuffer(memory, np.uint8).any()


@needs_linux
def test_touching_takes_the_memory_and_leaves_what_it_holds() -> None:
    before, toucher = resident(), Toucher()
    parts = [zeroed(SIZE // 2) for _ in range(2)]
    contents = [np.frombuffer(part, np.uint8) for part in parts]
    contents[0][5], contents[1][-1] = 7, 9
    assert resident() < before + SIZE // 2
    for part in parts:
        toucher.touch(part)
    until_resident(before + SIZE * 9 // 10)
    toucher.close()
    assert np.flatnonzero(contents[0]).tolist() == [5]
    assert np.flatnonzero(contents[1]).tolist() == [SIZE // 2 - 1]
    assert (contents[0][5], contents[1][-1]) == (7, 9)


@needs_linux
def test_what_nobody_wants_any_more_is_not_touched() -> None:
    before, toucher = resident(), Toucher()
    toucher.close()
    toucher.touch(zeroed(SIZE))
    toucher.close()
    assert resident() < before + SIZE // 2
