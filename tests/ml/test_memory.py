"""The memory report and its text."""

from __future__ import annotations

from copy import deepcopy

import pytest

from puna.errors import PunaError
from puna.ml import AllocationStatus, BackendMemory, DeviceMemory, InsufficientMemory, Memory

UNALLOCATED, FAILED, ALLOCATED = (
    AllocationStatus.UNALLOCATED,
    AllocationStatus.FAILED,
    AllocationStatus.ALLOCATED,
)


def report() -> BackendMemory:
    cpu = DeviceMemory("CPU", weights=[Memory(100, ALLOCATED), Memory()], graph=Memory(7, UNALLOCATED))
    gpu = DeviceMemory(
        "RPC0",
        "gpu-1",
        weights=[Memory(), Memory(300, ALLOCATED)],
        cache=[Memory(), Memory(40, FAILED)],
    )
    return BackendMemory(Memory(50, ALLOCATED), cpu, [gpu])


@pytest.mark.parametrize(
    ("status", "text"), [(UNALLOCATED, "1024U"), (FAILED, "1024F"), (ALLOCATED, "1024A")]
)
def test_one_allocation(status: AllocationStatus, text: str) -> None:
    assert str(Memory(1024, status)) == text


def test_statuses_are_the_original_s_numbers() -> None:
    assert [status.value for status in AllocationStatus] == [0, 1, 2]


def test_booking() -> None:
    memory = Memory()
    memory.add(10, ALLOCATED)
    memory.add(20, FAILED)
    memory.add(1, ALLOCATED)
    assert memory == Memory(31, FAILED)


def test_a_device_names_only_what_it_has() -> None:
    assert str(DeviceMemory("CPU")) == "[]"
    assert str(DeviceMemory("GPU", "id", weights=[Memory(), Memory()])) == "[]"
    cpu, gpu = report().cpu, report().gpus[0]
    assert str(cpu) == "[Weights=[100A 0U] Graph=7U]"
    assert str(gpu) == "[UUID=gpu-1 Weights=[0U 300A] Cache=[0U 40F]]"


def test_the_whole_report() -> None:
    assert str(report()) == (
        "[InputWeights=50A CPU=[Weights=[100A 0U] Graph=7U] "
        "RPC0=[UUID=gpu-1 Weights=[0U 300A] Cache=[0U 40F]]]"
    )
    assert str(BackendMemory(Memory(), DeviceMemory("CPU"), [])) == "[CPU=[]]"


def test_sizes() -> None:
    memory = report()
    assert (memory.cpu.size, memory.gpus[0].size, memory.size) == (107, 340, 497)


def test_running_out_carries_the_report() -> None:
    memory = report()
    error = InsufficientMemory(deepcopy(memory))
    assert isinstance(error, PunaError)
    assert str(error) == f"insufficient memory - required allocations: {memory}"
    assert error.memory == memory
    assert error.memory.gpus[0].cache[1].status is FAILED
