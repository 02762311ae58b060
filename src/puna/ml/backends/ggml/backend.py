"""The ggml backend: devices, weights and contexts of one model."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from pathlib import Path

import puna.ggml
from puna.errors import InvalidOption
from puna.ggml import access
from puna.gguf import GGMLType, GGUFFile, Metadata, TensorInfo
from puna.ml.backend import Backend, BackendParams, CacheConfig
from puna.ml.backends.ggml import placement, transcode, weights
from puna.ml.backends.ggml.context import GGMLContext
from puna.ml.backends.ggml.devices import accelerators, physical_cores, processor
from puna.ml.backends.ggml.executor import Devices, Executor, OutOfMemory, Processor
from puna.ml.backends.ggml.graph import Graph
from puna.ml.backends.ggml.tensor import GGMLTensor, dtype_of, extents
from puna.ml.backends.ggml.weights import Storage, Weight
from puna.ml.dtype import DType
from puna.ml.memory import AllocationStatus, BackendMemory, DeviceMemory, InsufficientMemory, Memory

_CELLS_PADDING = 256
_TRANSCODE_GROWTH = 0.2
_MIN_NODES = 1024
_NODES_PER_TENSOR = 32

# Fusing copies weights that could stay mapped; beyond this the shared, instantly loaded file is worth more.
_FUSE_COPY_LIMIT = 1 << 30


def open_backend(path: Path, params: BackendParams) -> Backend:
    """Opens a model file; see `puna.ml.new_backend`."""
    library = puna.ggml.load()
    return GGMLBackend(library, GGUFFile.open(path), params)


class GGMLBackend(Backend):
    """Weights of one file on the CPU and other devices; see `Backend`."""

    def __init__(self, library: puna.ggml.Library, file: GGUFFile, params: BackendParams) -> None:
        self.library = library
        self.file = file
        self.params = params
        self.blocks = file.metadata.uint("block_count", 0)
        self.cpu = processor(library)
        others = accelerators(library, params.rpc_servers) if params.num_gpu_layers else []
        free = [access.device_memory(library, device.handle)[0] for device in others]
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
        self._metadata = access.new_context(
            library, library.ggml_tensor_overhead() * (2 * len(file.tensors) + self.blocks + 8)
        )
        self._scratch = self._new_scratch()
        self._transcode = params.transcode
        if self._transcode is None:
            self._transcode = transcode.growth(file.tensors.values()) < _TRANSCODE_GROWTH
        self._weights: dict[tuple[tuple[str, ...], bool], Weight] = {}
        self._buffers: list[int] = []
        self._memory = self._empty_memory()
        self._allocated = False

    def _new_executor(self) -> Executor:
        if len(self._backends) == 1:
            return Processor(self.library, self._backends[0])
        return Devices(self.library, self._backends, self._max_nodes)

    def _empty_memory(self) -> BackendMemory:
        def device(index: int) -> DeviceMemory:
            layers = self.blocks + 1
            found = self.devices[index]
            return DeviceMemory(
                found.name, found.uuid, [Memory() for _ in range(layers)], [Memory() for _ in range(layers)]
            )

        return BackendMemory(Memory(), device(0), [device(i) for i in range(1, len(self.devices))])

    # -- weights --------------------------------------------------------------------------------------

    def config(self) -> Metadata:
        return self.file.metadata

    def names(self) -> Iterable[str]:
        return self.file.tensors.keys()

    def get(self, name: str, *, rows: bool = False) -> GGMLTensor | None:
        if name not in self.file.tensors:
            return None
        return self._weight((self.file.tensors[name],), rows)

    def get_concatenated(self, names: Sequence[str]) -> GGMLTensor | None:
        if not self.params.fuse or not all(name in self.file.tensors for name in names):
            return None
        sources = tuple(self.file.tensors[name] for name in names)
        if len({(source.type, source.shape[1:]) for source in sources}) > 1:
            return None
        weight = self._weights.get((tuple(names), False)) or self._plan(sources, rows=False)
        if weight.storage is Storage.PLAIN and self.file.size > _FUSE_COPY_LIMIT and not weight.device:
            return None
        return self._weight(sources, rows=False)

    def _weight(self, sources: tuple[TensorInfo, ...], rows: bool) -> GGMLTensor | None:
        key = (tuple(source.name for source in sources), rows)
        if key not in self._weights:
            if self._allocated:
                return None
            self._weights[key] = self._plan(sources, rows)
        weight = self._weights[key]
        return GGMLTensor(self.library, weight.handle, _joined(sources), dtype_of(weight.type), None)

    def _plan(self, sources: tuple[TensorInfo, ...], rows: bool) -> Weight:
        """Decides where and how a weight is kept."""
        layer = None if rows else placement.layer_of(sources[0].name, self.blocks)
        device = placement.CPU if layer is None else self.layers[layer]
        type = self._type_in_memory(sources[0], rows)
        shape = _joined(sources)
        handle = self.library.ggml_new_tensor(self._metadata, type, len(shape), extents(shape))
        self.library.ggml_set_name(handle, sources[0].name.encode())
        weight = Weight(sources, handle, type, device, layer, Storage.PLAIN, self._buffer_types[device])
        if device == placement.CPU:
            self._choose_storage(weight, rows)
        return weight

    def _type_in_memory(self, source: TensorInfo, rows: bool) -> GGMLType:
        is_matrix = len(source.shape) > 1 and not rows
        wanted = self._transcode and is_matrix
        return transcode.FASTER.get(source.type, source.type) if wanted else source.type

    def _choose_storage(self, weight: Weight, rows: bool) -> None:
        extra = None if rows or not self.params.repack else self._repacked_type(weight)
        if extra is not None:
            weight.storage, weight.buffer_type = Storage.REPACKED, extra
        elif (
            len(weight.sources) == 1 and weight.type is weight.sources[0].type and self.file.byte_order == "<"
        ):
            weight.storage, weight.buffer_type = Storage.MAPPED, 0

    def _native_order(self) -> bool:
        return (self.file.byte_order == "<") == (sys.byteorder == "little")

    def _repacked_type(self, weight: Weight) -> int | None:
        """The first buffer type of the CPU that multiplies faster with this weight, if any does."""
        shape = _joined(weight.sources)
        if not 2 <= len(shape) <= 3 or shape[-2] == 1:
            return None
        product = self._trial_product(weight, shape)
        for buffer_type in access.extra_buffer_types(self.library, self.cpu.handle):
            buffer = self.library.ggml_backend_buft_alloc_buffer(buffer_type, 0)
            access.place(weight.handle, buffer, 0)
            fits = self.library.ggml_backend_dev_supports_op(self.cpu.handle, product)
            access.unplace(weight.handle)
            self.library.ggml_backend_buffer_free(buffer)
            if fits:
                return buffer_type
        return None

    def _trial_product(self, weight: Weight, shape: tuple[int, ...]) -> int:
        """A product with the weight, as a model would make it, to ask a device about."""
        library, scratch = self.library, self._scratch
        if len(shape) == 2:
            vectors = library.ggml_new_tensor_2d(scratch, GGMLType.F32, shape[-1], 2)
            return int(library.ggml_mul_mat(scratch, weight.handle, vectors))
        vectors = library.ggml_new_tensor_3d(scratch, GGMLType.F32, shape[-1], 1, 2)
        ids = library.ggml_new_tensor_2d(scratch, GGMLType.I32, 1, 2)
        return int(library.ggml_mul_mat_id(scratch, weight.handle, vectors, ids))

    def _new_scratch(self) -> int:
        per_weight = 3 * self.library.ggml_tensor_overhead()
        return access.new_context(self.library, per_weight * (2 * len(self.file.tensors) + 8))

    def allocate(self) -> None:
        if self._allocated:
            return
        self._allocated = True
        asked = list(self._weights.values())
        for weight in asked:
            size = weights.memory_size(self.library, weight)
            status = AllocationStatus.ALLOCATED if self.params.alloc_memory else AllocationStatus.UNALLOCATED
            self._book_weight(weight, size, status)
        if self.params.alloc_memory:
            self._make_buffers(asked)
            return
        for weight in asked:
            self._buffers.append(self._pretend(weight.handle, weight.buffer_type or self._buffer_types[0]))

    def load(self, progress: Callable[[float], None] = lambda done: None) -> None:
        self.allocate()
        if self.params.alloc_memory:
            asked = list(self._weights.values())
            weights.read(self.library, self.file, asked, self.threads, progress)

    def _make_buffers(self, asked: Sequence[Weight]) -> None:
        mapped = [weight for weight in asked if weight.storage is Storage.MAPPED]
        if mapped:
            self._buffers.append(weights.map_file(self.library, self.file, mapped))
        groups: dict[int, list[Weight]] = defaultdict(list)
        for weight in asked:
            if weight.storage is not Storage.MAPPED:
                groups[weight.buffer_type].append(weight)
        for buffer_type, members in groups.items():
            buffer = weights.allocate(self.library, members, buffer_type)
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

    def interrupt(self) -> None:
        self._interrupt.set()

    def resume(self) -> None:
        self._interrupt.clear()

    # -- contexts -------------------------------------------------------------------------------------

    def cache_config(self) -> CacheConfig:
        mask = DType.F16 if self.params.flash_attention else DType.F32
        return CacheConfig(cache_padding=_CELLS_PADDING, mask_dtype=mask)

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

    def allocate_storage(self, tensor: int, layer: int) -> int:
        """A buffer on a layer's device, booked as its cache; returns the buffer."""
        device = self.layers[min(layer, self.blocks)]
        entry = self._device_memory(device).cache[min(layer, self.blocks)]
        size = self._size_of(tensor, device)
        if not self.params.alloc_memory:
            entry.add(size, AllocationStatus.UNALLOCATED)
            return self._pretend(tensor, self._buffer_types[device])
        buffer = self._buffer_for(tensor, self._buffer_types[device])
        entry.add(size, AllocationStatus.FAILED if buffer is None else AllocationStatus.ALLOCATED)
        if buffer is None:
            raise InsufficientMemory(self.backend_memory())
        return buffer

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
        if not self._metadata:
            return
        self._executor.close()
        for buffer in self._buffers:
            self.library.ggml_backend_buffer_free(buffer)
        for backend in self._backends:
            self.library.ggml_backend_free(backend)
        self.library.ggml_free(self._metadata)
        self.library.ggml_free(self._scratch)
        self._metadata = 0
        self.file.close()


def _joined(sources: Sequence[TensorInfo]) -> tuple[int, ...]:
    """The shape of the sources' rows one below the other."""
    first = sources[0].shape
    return first if len(sources) == 1 else (sum(source.shape[0] for source in sources), *first[1:])
