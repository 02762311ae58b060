"""The ggml backend: devices, weights and contexts of one model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from mmap import mmap
from pathlib import Path

import puna.ggml
from puna.errors import InvalidOption
from puna.ggml import access
from puna.gguf import GGUFFile, Metadata
from puna.ml.backend import Backend, BackendParams, CacheConfig
from puna.ml.backends.ggml import loading, pages, placement
from puna.ml.backends.ggml.context import GGMLContext
from puna.ml.backends.ggml.devices import accelerators, physical_cores, processor
from puna.ml.backends.ggml.executor import Devices, Executor, OutOfMemory, Processor
from puna.ml.backends.ggml.graph import Graph
from puna.ml.backends.ggml.tensor import GGMLTensor
from puna.ml.backends.ggml.weights import Weight, Weights
from puna.ml.dtype import DType
from puna.ml.memory import (
    AllocationStatus,
    BackendMemory,
    DeviceMemory,
    InsufficientMemory,
    Memory,
    StorageKind,
)

_CELLS_PADDING = 256
_BLOCKS_AT_MOST = 4096
_MIN_NODES = 1024
_NODES_PER_TENSOR = 32


def open_backend(path: Path, params: BackendParams) -> Backend:
    """Opens a model file; see `puna.ml.new_backend`."""
    library = puna.ggml.load()
    file = GGUFFile.open(path)
    try:
        return GGMLBackend(library, file, params)
    except BaseException:
        file.close()
        raise


class GGMLBackend(Backend):
    """Weights of one file on the CPU and other devices; see `Backend`."""

    def __init__(self, library: puna.ggml.Library, file: GGUFFile, params: BackendParams) -> None:
        self.library = library
        self.file = file
        self.params = params
        # Room for each is made at once, and the number is only what a file says.
        self.blocks = min(file.metadata.uint("block_count", 0), _BLOCKS_AT_MOST)
        self.cpu = processor(library)
        others = accelerators(library, params.rpc_servers) if params.num_gpu_layers else []
        # Of the CPU's memory ggml tells the total only.
        self._room = [(0, access.device_memory(library, self.cpu.handle)[1])]
        self._room += [access.device_memory(library, device.handle) for device in others]
        free = [free for free, _ in self._room[1:]]
        self.layers = placement.assign_layers(
            self.blocks, params.num_gpu_layers, params.tensor_split, params.main_gpu, free
        )
        self.devices = [self.cpu, *others]
        # The scheduler prefers the first device and ends with the CPU; a device without layers is left alone.
        self._used = [*sorted(set(self.layers) - {placement.CPU}), placement.CPU]
        self._backends = [
            library.ggml_backend_dev_init(self.devices[index].handle, None) for index in self._used
        ]
        self._buffer_types = {
            index: library.ggml_backend_get_default_buffer_type(backend)
            for index, backend in zip(self._used, self._backends, strict=True)
        }
        self.threads = params.num_threads or physical_cores()
        library.ggml_backend_cpu_set_n_threads(self._backends[-1], self.threads)
        self._interrupt = access.Interrupt(library, self._backends[-1])
        self._max_nodes = max(_MIN_NODES, _NODES_PER_TENSOR * len(file.tensors))
        self._executor = self._new_executor()
        self._weights = Weights(library, file, params, self.cpu.handle, self.layers, self._buffer_types)
        self._buffers: list[int] = []
        self._toucher = pages.Toucher()
        self._memory = self._empty_memory()
        self._allocated = False
        self._closed = False

    def _new_executor(self) -> Executor:
        if len(self._backends) == 1:
            return Processor(self.library, self._backends[0])
        return Devices(self.library, self._backends, self._max_nodes)

    def _empty_memory(self) -> BackendMemory:
        def device(index: int) -> DeviceMemory:
            layers = self.blocks + 1
            found = self.devices[index]
            free, total = self._room[index]
            weights, cache = ([Memory() for _ in range(layers)] for _ in range(2))
            return DeviceMemory(found.name, found.uuid, weights, cache, free=free, total=total)

        return BackendMemory(Memory(), device(0), [device(i) for i in range(1, len(self.devices))])

    # -- weights --------------------------------------------------------------------------------------

    def config(self) -> Metadata:
        return self.file.metadata

    def names(self) -> Iterable[str]:
        return self.file.tensors.keys()

    def allow_rounding(self) -> None:
        self._weights.rounds = True

    def get(self, name: str, *, rows: bool = False) -> GGMLTensor | None:
        if name not in self.file.tensors:
            return None
        return self._weights.get((self.file.tensors[name],), rows)

    def get_concatenated(self, names: Sequence[str]) -> GGMLTensor | None:
        if not all(name in self.file.tensors for name in names):
            return None
        sources = tuple(self.file.tensors[name] for name in names)
        return self._weights.get(sources, rows=False) if self._weights.fits_together(sources) else None

    def allocate(self) -> None:
        if self._allocated:
            return
        self._allocated = True
        self._weights.seal()
        real = self.params.alloc_memory
        status = AllocationStatus.ALLOCATED if real else AllocationStatus.UNALLOCATED
        for weight in self._weights.asked:
            size = loading.memory_size(self.library, weight)
            self._book_weight(weight, size, status)
            if not real:
                buffer_type = weight.buffer_type or self._buffer_types[placement.CPU]
                self._buffers.append(self._pretend(weight.handle, buffer_type))
        if real:
            self._make_buffers()

    def load(self, progress: Callable[[float], None] = lambda done: None) -> None:
        self.allocate()
        if self.params.alloc_memory:
            loading.read(self.library, self.file, self._weights.asked, self.threads, progress)

    def _make_buffers(self) -> None:
        groups: dict[int, list[Weight]] = defaultdict(list)
        for weight in self._weights.asked:
            groups[weight.buffer_type].append(weight)
        mapped = groups.pop(0, [])
        if mapped:
            self._buffers.append(loading.map_file(self.library, self.file, mapped))
        for buffer_type, members in groups.items():
            buffer = loading.allocate(self.library, members, buffer_type)
            if buffer is None:
                for weight in members:
                    self._book_weight(weight, 0, AllocationStatus.FAILED)
                raise InsufficientMemory(self.backend_memory())
            self._buffers.append(buffer)

    def _book_weight(self, weight: Weight, size: int, status: AllocationStatus) -> None:
        if weight.layer is None:
            self._memory.input_weights.add(size, status)
        else:
            self._device_memory(weight.device).weights[weight.layer].add(size, status)

    def _device_memory(self, device: int) -> DeviceMemory:
        return self._memory.cpu if device == placement.CPU else self._memory.gpus[device - 1]

    def backend_memory(self) -> BackendMemory:
        return deepcopy(self._memory)

    def forget_caches(self) -> None:
        self._memory.forget_caches()

    def interrupt(self) -> None:
        self._interrupt.set()

    def resume(self) -> None:
        self._interrupt.clear()

    # -- contexts -------------------------------------------------------------------------------------

    def cache_config(self) -> CacheConfig:
        mask = DType.F16 if self.params.flash_attention else DType.F32
        return CacheConfig(cache_padding=_CELLS_PADDING, mask_dtype=mask, copies=self._executor.on_cpu)

    def new_context(self) -> GGMLContext:
        return self.new_context_size(self._max_nodes)

    def new_context_size(self, nodes: int) -> GGMLContext:
        if not 1 <= nodes <= self._max_nodes:
            raise InvalidOption(f"a graph of {nodes} nodes is asked for; the largest has {self._max_nodes}")
        return GGMLContext(self, Graph(self.library, self._executor, nodes, self.params.flash_attention))

    def allocate_input(self, tensor: int) -> int:
        """A buffer in system memory for a graph's input; returns the buffer."""
        if not self.params.alloc_memory:
            return self._pretend(tensor, self._buffer_types[0])
        buffer = self._buffer_for(tensor, self._buffer_types[0])
        if buffer is None:
            self._memory.cpu.graph.add(self._size_of(tensor, 0), AllocationStatus.FAILED)
            raise InsufficientMemory(self.backend_memory())
        return buffer

    def allocate_storage(self, graph: Graph, tensor: int, layer: int, kind: StorageKind) -> None:
        """Gives one of a graph's tensors a buffer of zeros on a layer's device.

        Weights stay on the books as long as the graph is open.
        """
        device = self.layers[min(layer, self.blocks)]
        booked = self._device_memory(device)
        entry = (booked.weights if kind == "weights" else booked.cache)[min(layer, self.blocks)]
        before, size = entry.status, self._size_of(tensor, device)
        if not self.params.alloc_memory:
            entry.add(size, AllocationStatus.UNALLOCATED)
            graph.adopt(tensor, self._pretend(tensor, self._buffer_types[device]))
            return
        buffer, memory = self._zeros(tensor, size, device)
        entry.add(size, AllocationStatus.FAILED if buffer is None else AllocationStatus.ALLOCATED)
        if kind == "weights":
            graph.when_closed(lambda: entry.take(size, before))
        if buffer is None:
            raise InsufficientMemory(self.backend_memory())
        graph.adopt(tensor, buffer, memory)

    def _zeros(self, tensor: int, size: int, device: int) -> tuple[int | None, mmap | None]:
        if device != placement.CPU:
            buffer = self._buffer_for(tensor, self._buffer_types[device])
            if buffer is not None:
                self.library.ggml_backend_buffer_clear(buffer, 0)
            return buffer, None
        try:
            memory = pages.zeroed(size)
        except OSError:
            return None, None
        address = pages.address(memory)
        buffer = int(self.library.ggml_backend_cpu_buffer_from_ptr(address, size))
        self.library.ggml_backend_tensor_alloc(buffer, tensor, address)
        self._toucher.touch(memory)
        return buffer, memory

    def _size_of(self, tensor: int, device: int) -> int:
        return int(self.library.ggml_backend_buft_get_alloc_size(self._buffer_types[device], tensor))

    def _buffer_for(self, tensor: int, buffer_type: int) -> int | None:
        size = self.library.ggml_backend_buft_get_alloc_size(buffer_type, tensor)
        buffer = self.library.ggml_backend_buft_alloc_buffer(buffer_type, size)
        if buffer:
            base = self.library.ggml_backend_buffer_get_base(buffer)
            self.library.ggml_backend_tensor_alloc(buffer, tensor, base)
        return buffer or None

    def _pretend(self, tensor: int, buffer_type: int) -> int:
        """Gives a tensor an empty buffer, so that planning counts it as placed; returns the buffer."""
        buffer = self.library.ggml_backend_buft_alloc_buffer(buffer_type, 0)
        access.place(tensor, buffer, 1)
        return int(buffer)

    def reserve(self, graph: Graph) -> None:
        """Makes or plans room for the largest graph and books it."""
        if not self.params.alloc_memory:
            self._book_graph(self._executor.plan(graph), [AllocationStatus.UNALLOCATED] * len(self._used))
            return
        try:
            sizes = self._executor.reserve(graph)
        except OutOfMemory as error:
            raise self.no_room(error) from error
        self._book_graph(sizes, [AllocationStatus.ALLOCATED] * len(sizes))

    def no_room(self, error: OutOfMemory) -> InsufficientMemory:
        """The error for a compute buffer that was refused, with what was tried."""
        before, after = AllocationStatus.ALLOCATED, AllocationStatus.UNALLOCATED
        statuses = [before] * error.failed + [AllocationStatus.FAILED]
        statuses += [after] * (len(error.sizes) - len(statuses))
        self._book_graph(error.sizes, statuses)
        return InsufficientMemory(self.backend_memory())

    def _book_graph(self, sizes: Sequence[int], statuses: Sequence[AllocationStatus]) -> None:
        """Books compute buffers, one for each device in use."""
        for index, size, status in zip(self._used, sizes, statuses, strict=True):
            device = self._device_memory(index)
            if size >= device.graph.size:
                device.graph = Memory(size, status)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._toucher.close()
        self._executor.close()
        for buffer in self._buffers:
            self.library.ggml_backend_buffer_free(buffer)
        for backend in self._backends:
            self.library.ggml_backend_free(backend)
        self._weights.free()
        self.file.close()
