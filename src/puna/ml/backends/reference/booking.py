"""What the contexts of one reference backend share: the memory report, and who may compute."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from threading import Event

from puna.ml.memory import (
    AllocationStatus,
    BackendMemory,
    DeviceMemory,
    InsufficientMemory,
    Memory,
    StorageKind,
)

_BLOCK = re.compile(r"^blk\.(\d+)\.")


@dataclass(slots=True)
class Booking:
    """What has been allocated, or with `allocating` off what would be.

    Attributes:
        blocks: blocks of the model; entry `blocks` of weights and cache is the output's.
        allocating: False plans only.
        latest: the graph that computed last.
        interrupted: set while nothing may compute.
    """

    blocks: int
    allocating: bool
    latest: object = None
    interrupted: Event = field(default_factory=Event)
    report: BackendMemory = field(init=False)

    def __post_init__(self) -> None:
        layers = self.blocks + 1
        cpu = DeviceMemory(
            "CPU", weights=[Memory() for _ in range(layers)], cache=[Memory() for _ in range(layers)]
        )
        self.report = BackendMemory(Memory(), cpu, [])

    @property
    def _status(self) -> AllocationStatus:
        return AllocationStatus.ALLOCATED if self.allocating else AllocationStatus.UNALLOCATED

    def book_weight(self, name: str, nbytes: int, *, rows: bool) -> None:
        """A weight: a table that is looked up is input, blocks are layers, all else belongs to the output."""
        found = _BLOCK.match(name)
        layer = min(int(found[1]), self.blocks) if found else self.blocks
        entry = self.report.input_weights if rows else self.report.cpu.weights[layer]
        entry.add(nbytes, self._status)

    def book_storage(self, layer: int, nbytes: int, kind: StorageKind) -> Memory:
        """Storage of one layer; returns the entry."""
        cpu = self.report.cpu
        entry = (cpu.weights if kind == "weights" else cpu.cache)[min(layer, self.blocks)]
        entry.add(nbytes, self._status)
        return entry

    def book_graph(self, nbytes: int) -> None:
        """Intermediate results of the largest graph so far."""
        if nbytes > self.report.cpu.graph.size:
            self.report.cpu.graph = Memory(nbytes, self._status)

    def refused(self, entry: Memory) -> InsufficientMemory:
        """The error for an entry whose memory could not be had."""
        entry.status = AllocationStatus.FAILED
        return InsufficientMemory(self.copy())

    def copy(self) -> BackendMemory:
        """The report as it is now."""
        return copy.deepcopy(self.report)
