"""Executors: where graphs get their compute memory, and who runs them.

`Processor` serves the CPU alone: one growing compute buffer that all graphs share. `Devices` serves
several devices through ggml's scheduler, which cuts a graph into parts and copies between them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from puna.errors import Interrupted
from puna.ggml import access
from puna.ggml.enums import Status

if TYPE_CHECKING:
    from puna.ggml import Library
    from puna.ml.backends.ggml.graph import Graph


class OutOfMemory(Exception):
    """The compute buffer does not fit.

    Attributes:
        sizes: bytes that were wanted of each device, in the executor's order.
        failed: which device refused, as an index into `sizes`.
    """

    def __init__(self, sizes: list[int], failed: int) -> None:
        super().__init__(f"no room for compute buffers of {sizes} bytes")
        self.sizes = sizes
        self.failed = failed


class Executor(ABC):
    """Runs graphs one at a time.

    Attributes:
        current: the graph whose results are in the compute buffer.
        placement: counts the moves of the compute buffer; a graph placed in an older one is stale.
        on_cpu: everything is computed by the CPU.
    """

    on_cpu = False

    def __init__(self, library: Library) -> None:
        self.library = library
        self.current: Graph | None = None
        self.placement = 1

    def run(self, graph: Graph) -> None:
        """Places the graph if it is new or stale, and computes it."""
        if self._is_stale(graph):
            self._place(graph)
        self.current = graph
        status = self._compute(graph)
        if status == Status.ABORTED:
            raise Interrupted("the computation was interrupted")
        if status:
            raise self.library.failure(f"ggml could not compute the graph (status {status})")

    def forget(self, graph: Graph) -> None:
        """Drops the last reference to a graph that is closing."""
        if self.current is graph:
            self.current = None

    @abstractmethod
    def reserve(self, graph: Graph) -> list[int]:
        """Makes room for the graph and says how many bytes each device's compute buffer has.

        Raises:
            OutOfMemory: there is none.
        """

    @abstractmethod
    def plan(self, graph: Graph) -> list[int]:
        """How many bytes each device's compute buffer would need for the graph; allocates nothing."""

    @abstractmethod
    def close(self) -> None:
        """Frees the compute buffers."""

    @abstractmethod
    def _is_stale(self, graph: Graph) -> bool: ...

    @abstractmethod
    def _place(self, graph: Graph) -> None: ...

    @abstractmethod
    def _compute(self, graph: Graph) -> int: ...


class Processor(Executor):
    """The CPU alone.

    All graphs are placed in one buffer of the largest one's size. Should a graph need more, the buffer
    moves, and the others are placed again when they run next.
    """

    on_cpu = True

    def __init__(self, library: Library, backend: int) -> None:
        super().__init__(library)
        self.backend = backend
        buffer_type = library.ggml_backend_get_default_buffer_type(backend)
        self._allocator = library.ggml_gallocr_new(buffer_type)

    def reserve(self, graph: Graph) -> list[int]:
        before = self._size()
        if not self.library.ggml_gallocr_reserve(self._allocator, graph.cgraph):
            raise OutOfMemory(self.plan(graph), 0)
        self._note_move(before)
        return [self._size()]

    def plan(self, graph: Graph) -> list[int]:
        return [access.reserve_size(self.library, self._allocator, graph.cgraph)]

    def close(self) -> None:
        if self._allocator:
            self.library.ggml_gallocr_free(self._allocator)
        self._allocator = 0

    def _size(self) -> int:
        return int(self.library.ggml_gallocr_get_buffer_size(self._allocator, 0))

    def _note_move(self, size_before: int) -> None:
        if self._size() != size_before:
            self.placement += 1
            self.current = None

    def _is_stale(self, graph: Graph) -> bool:
        return graph.placed != self.placement

    def _place(self, graph: Graph) -> None:
        if graph.placed:
            graph.place_again()
        before = self._size()
        if not self.library.ggml_gallocr_alloc_graph(self._allocator, graph.cgraph):
            raise OutOfMemory(self.plan(graph), 0)
        self._note_move(before)
        graph.placed = self.placement

    def _compute(self, graph: Graph) -> int:
        return int(self.library.ggml_backend_graph_compute(self.backend, graph.cgraph))


class Devices(Executor):
    """Several devices, through `ggml_backend_sched`.

    The scheduler holds one graph at a time and rewrites its nodes' operands where data crosses devices.
    A graph that runs after another one is therefore restored and placed again; one that runs repeatedly,
    as decoding does, is not.
    """

    def __init__(self, library: Library, backends: Sequence[int], nodes: int) -> None:
        super().__init__(library)
        self._backends = backends
        self._scheduler = access.new_scheduler(library, backends, nodes)

    def reserve(self, graph: Graph) -> list[int]:
        graph.remember_wiring()
        fits = self.library.ggml_backend_sched_reserve(self._scheduler, graph.cgraph)
        self.library.ggml_backend_sched_reset(self._scheduler)
        graph.place_again()
        self.current = None
        if not fits:
            raise self._refusal(graph)
        return self._sizes()

    def plan(self, graph: Graph) -> list[int]:
        graph.remember_wiring()
        sizes = access.scheduler_reserve_sizes(
            self.library, self._scheduler, graph.cgraph, len(self._backends)
        )
        self.library.ggml_backend_sched_reset(self._scheduler)
        graph.place_again()
        return sizes

    def _sizes(self) -> list[int]:
        return [self.library.ggml_backend_sched_get_buffer_size(self._scheduler, b) for b in self._backends]

    def _refusal(self, graph: Graph) -> OutOfMemory:
        """Compute buffers are allocated in order: the first that is smaller than planned was refused."""
        present = self._sizes()
        planned = self.plan(graph)
        smaller = (i for i, (have, want) in enumerate(zip(present, planned, strict=True)) if have < want)
        return OutOfMemory(planned, next(smaller, 0))

    def close(self) -> None:
        if self._scheduler:
            self.library.ggml_backend_sched_free(self._scheduler)
        self._scheduler = 0

    def _is_stale(self, graph: Graph) -> bool:
        return self.current is not graph or not graph.placed

    def _place(self, graph: Graph) -> None:
        if graph.placed:
            graph.place_again()
        else:
            graph.remember_wiring()
        self.library.ggml_backend_sched_reset(self._scheduler)
        if not self.library.ggml_backend_sched_alloc_graph(self._scheduler, graph.cgraph):
            graph.place_again()
            raise self._refusal(graph)
        self.placement += 1
        graph.placed = self.placement

    def _compute(self, graph: Graph) -> int:
        return int(self.library.ggml_backend_sched_graph_compute(self._scheduler, graph.cgraph))
