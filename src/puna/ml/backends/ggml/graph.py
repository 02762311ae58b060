"""One graph: its metadata, its inputs, its place in the compute buffer, and running it again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from mmap import mmap
from typing import TYPE_CHECKING

from puna.errors import BackendError, InvalidOption
from puna.ggml import access

if TYPE_CHECKING:
    from puna.ggml import Library
    from puna.ml.backends.ggml.executor import Executor


# Some operations make several tensors; the library ends the process when it runs out of room for one.
_SPARE = 8


class Graph:
    """A `ggml_cgraph` and the `ggml_context` that holds its tensors.

    Built once, computed as often as wanted: inputs and storage have buffers of their own, so a repeated
    `compute` needs neither building nor allocation. Only when the executor's compute buffer has moved, or
    served another graph of several devices, are the nodes placed anew; see `place_again`.

    Attributes:
        handle: address of the `ggml_context`.
        flash_attention: whether attention uses the fused kernel.
        placed: the executor's placement in which this graph's nodes lie, 0 before the first.
    """

    def __init__(self, library: Library, executor: Executor, nodes: int, flash_attention: bool) -> None:
        self.library = library
        self.executor = executor
        self.nodes = nodes
        self.flash_attention = flash_attention
        self.placed = 0
        self._room = library.ggml_tensor_overhead() * nodes
        spare = library.ggml_tensor_overhead() * _SPARE
        overhead = library.ggml_graph_overhead_custom(nodes + _SPARE, False)
        self.handle = access.new_context(library, self._room + spare + overhead)
        self.cgraph = 0
        self._buffers: list[int] = []
        self._memory: list[mmap] = []
        self._own: set[int] = set()
        self._outputs: set[int] = set()
        self._wiring: list[tuple[int, bytes]] = []
        self._closing: list[Callable[[], None]] = []

    def require_room(self) -> None:
        """Raises BackendError if the graph has as many tensors as it may."""
        if self.library.ggml_used_mem(self.handle) >= self._room:
            raise BackendError(f"the graph is full: open its context with more than {self.nodes} nodes")

    def adopt(self, tensor: int, buffer: int, memory: mmap | None = None) -> None:
        """Takes over a buffer that was made for one of this graph's tensors, and the memory it lies in."""
        self._buffers.append(buffer)
        if memory is not None:
            self._memory.append(memory)
        self._own.add(tensor)

    def when_closed(self, act: Callable[[], None]) -> None:
        """Has something done when the graph is closed."""
        self._closing.append(act)

    def owns(self, tensor: int) -> bool:
        """Whether the tensor can be read now: memory of its own, or a result of the last computation."""
        return tensor in self._own or (tensor in self._outputs and self.executor.current is self)

    def expand(self, tensors: Iterable[int]) -> None:
        """Adds the tensors and what they depend on to what is computed."""
        if self.placed:
            raise InvalidOption("a graph that was computed cannot grow; open another context")
        if not self.cgraph:
            before = self.library.ggml_used_mem(self.handle)
            self.cgraph = self.library.ggml_new_graph_custom(self.handle, self.nodes + _SPARE, False)
            self._room += self.library.ggml_used_mem(self.handle) - before
        for tensor in tensors:
            self.library.ggml_build_forward_expand(self.cgraph, tensor)

    def compute(self, outputs: Iterable[int]) -> None:
        """Runs the graph; `outputs` are kept until another graph runs."""
        if not self.cgraph:
            raise BackendError("there is nothing to compute: call forward first")
        if not self.placed:
            self._outputs.update(outputs)
            for tensor in self._outputs:
                self.library.ggml_set_output(tensor)
        self.executor.run(self)

    def remember_wiring(self) -> None:
        """Keeps what a scheduler rewrites: the operands of every node."""
        self._wiring = [
            (node, access.sources(node)) for node in access.graph_nodes(self.library, self.cgraph)
        ]

    def place_again(self) -> None:
        """Takes every node out of the compute buffer, and restores its operands, for a new placement."""
        for node, sources in self._wiring:
            access.set_sources(node, sources)
        for node in access.graph_nodes(self.library, self.cgraph):
            access.unplace(node)

    def close(self) -> None:
        """Frees the graph with everything made in it; closing twice is harmless."""
        if not self.handle:
            return
        self.executor.forget(self)
        for buffer in self._buffers:
            self.library.ggml_backend_buffer_free(buffer)
        self.library.ggml_free(self.handle)
        for act in self._closing:
            act()
        self._buffers, self._memory, self.handle, self.cgraph = [], [], 0, 0
