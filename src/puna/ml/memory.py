"""What a model needs of each device's memory, and what was tried to get it."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, TypeAlias

from puna.errors import OutOfMemory

StorageKind: TypeAlias = Literal["cache", "weights"]
"""As what of a layer storage is booked."""


class AllocationStatus(IntEnum):
    """What became of one allocation."""

    UNALLOCATED = 0
    FAILED = 1
    ALLOCATED = 2


@dataclass(slots=True)
class Memory:
    """The size of one allocation in bytes and whether it succeeded; prints as `<size>U|F|A`."""

    size: int = 0
    status: AllocationStatus = AllocationStatus.UNALLOCATED

    def add(self, size: int, status: AllocationStatus) -> None:
        """Books `size` more bytes; a failure is not overwritten by a later success."""
        self.size += size
        if self.status is not AllocationStatus.FAILED:
            self.status = status

    def take(self, size: int, before: AllocationStatus) -> None:
        """Takes `size` bytes off again; a failure that was booked with them becomes what it was before."""
        self.size -= size
        if self.status is AllocationStatus.FAILED:
            self.status = before

    def __str__(self) -> str:
        return f"{self.size}{self.status.name[0]}"


@dataclass(slots=True)
class DeviceMemory:
    """One device's share of a model.

    Attributes:
        name: the device as the backend labels it; may change between runs.
        uuid: a lasting identifier of the device, empty where there is none.
        weights: bytes of weights per layer; one more entry than the model has blocks, the last is the output.
        cache: bytes of KV cache per layer, in the same order.
        graph: bytes of the compute buffer, not per layer.
        free, total: bytes of the device before the model came; 0 where unknown.
    """

    name: str
    uuid: str = ""
    weights: list[Memory] = field(default_factory=list)
    cache: list[Memory] = field(default_factory=list)
    graph: Memory = field(default_factory=Memory)
    free: int = field(default=0, compare=False)
    total: int = field(default=0, compare=False)

    @property
    def size(self) -> int:
        """All of it, in bytes."""
        return sum(memory.size for memory in (*self.weights, *self.cache, self.graph))

    def __str__(self) -> str:
        groups = [("UUID", self.uuid)] if self.size and self.uuid else []
        for label, entries in (("Weights", self.weights), ("Cache", self.cache)):
            if any(entry.size for entry in entries):
                groups.append((label, f"[{' '.join(map(str, entries))}]"))
        if self.graph.size:
            groups.append(("Graph", str(self.graph)))
        return f"[{' '.join(f'{label}={text}' for label, text in groups)}]"


@dataclass(slots=True)
class BackendMemory:
    """What a model needs, device by device.

    Not every allocation is known at every moment, but the latest attempt is always booked, so that a
    caller who catches `InsufficientMemory` can make room for at least that and try again.

    Attributes:
        input_weights: bytes of the input embedding; always on the CPU, it cannot be moved.
        cpu: what lies in system memory.
        gpus: what lies on each other device, in the backend's order.
    """

    input_weights: Memory
    cpu: DeviceMemory
    gpus: list[DeviceMemory]

    def forget_caches(self) -> None:
        """Takes caches and graphs off the books, weights stay."""
        for device in (self.cpu, *self.gpus):
            device.cache = [Memory() for _ in device.cache]
            device.graph = Memory()

    @property
    def size(self) -> int:
        """All of it, in bytes."""
        return self.input_weights.size + self.cpu.size + sum(gpu.size for gpu in self.gpus)

    def __str__(self) -> str:
        groups = [f"InputWeights={self.input_weights}"] if self.input_weights.size else []
        groups += [f"{device.name}={device}" for device in (self.cpu, *self.gpus)]
        return f"[{' '.join(groups)}]"


class InsufficientMemory(OutOfMemory):
    """A device has not the memory that a model needs there.

    Attributes:
        memory: every allocation attempted so far; the failed one has status FAILED.
    """

    memory: BackendMemory

    def __init__(self, memory: BackendMemory) -> None:
        super().__init__(f"insufficient memory - required allocations: {memory}")
        self.memory = memory
