"""What the C interface needs pointers for: fields of tensors, arrays, and results by reference."""

import ctypes
from collections.abc import Sequence

from puna.ggml.layouts import ggml_backend_dev_props, ggml_init_params, ggml_tensor, ggml_type_traits
from puna.ggml.library import Library

_POINTER = ctypes.sizeof(ctypes.c_void_p)
_SOURCES = ggml_tensor.src.offset
_SOURCES_SIZE = ggml_tensor.src.size
_BUFFER = ggml_tensor.buffer.offset
_DATA = ggml_tensor.data.offset

Int64s = ctypes.Array[ctypes.c_int64]
"""An array of C's `int64_t`, which a function takes by its address."""

_ToFloat = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
_ExtraBufferTypes = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)


def new_context(library: Library, size: int) -> int:
    """A `ggml_context` of `size` bytes for metadata only."""
    context = library.ggml_init(ggml_init_params(size, None, True))
    if not context:
        raise MemoryError(f"no memory for {size} bytes of graph metadata")
    return int(context)


def int64s(values: Sequence[int]) -> Int64s:
    """The values as C's `int64_t[]`."""
    return (ctypes.c_int64 * len(values))(*values)


def strides(tensor: int) -> tuple[int, ...]:
    """`nb`: bytes per step along each axis, the contiguous axis first."""
    return tuple(ggml_tensor.from_address(tensor).nb)


def data(tensor: int) -> int:
    """Address of the elements, 0 if not allocated."""
    return ggml_tensor.from_address(tensor).data or 0


def buffer(tensor: int) -> int:
    """The buffer that holds the elements, 0 if none."""
    return ggml_tensor.from_address(tensor).buffer or 0


def root_buffer(tensor: int) -> int:
    """The buffer that holds the elements of the tensor or of what it is a view of, 0 if none."""
    fields = ggml_tensor.from_address(tensor)
    return fields.buffer or (buffer(fields.view_src) if fields.view_src else 0)


def element_type(tensor: int) -> int:
    """The `ggml_type`."""
    return int(ggml_tensor.from_address(tensor).type)


def place(tensor: int, holder: int, address: int) -> None:
    """Sets buffer and data, for a tensor whose content is never touched."""
    fields = ggml_tensor.from_address(tensor)
    fields.buffer, fields.data = holder, address


def unplace(tensor: int) -> None:
    """Takes the tensor out of its buffer."""
    ctypes.memset(tensor + _BUFFER, 0, _POINTER)
    ctypes.memset(tensor + _DATA, 0, _POINTER)


def sources(tensor: int) -> bytes:
    """The addresses of the operands, as they lie in memory."""
    return ctypes.string_at(tensor + _SOURCES, _SOURCES_SIZE)


def set_sources(tensor: int, saved: bytes) -> None:
    """Puts back what `sources` gave."""
    ctypes.memmove(tensor + _SOURCES, saved, _SOURCES_SIZE)


def memory(address: int, size: int) -> memoryview:
    """Bytes at an address, writable and not copied; valid as long as what lies there."""
    return memoryview((ctypes.c_uint8 * size).from_address(address)).cast("B")


def graph_nodes(library: Library, graph: int) -> list[int]:
    """The operations of a graph, in order."""
    return [library.ggml_graph_node(graph, index) for index in range(library.ggml_graph_n_nodes(graph))]


def reserve_size(library: Library, allocator: int, graph: int) -> int:
    """Bytes that a graph allocator's one buffer would need for the graph."""
    size = ctypes.c_size_t()
    library.ggml_gallocr_reserve_n_size(allocator, graph, None, None, ctypes.addressof(size))
    return size.value


def scheduler_reserve_sizes(library: Library, scheduler: int, graph: int, backends: int) -> list[int]:
    """Bytes that each backend's compute buffer would need for the graph, in the scheduler's order."""
    sizes = (ctypes.c_size_t * backends)()
    library.ggml_backend_sched_reserve_size(scheduler, graph, ctypes.addressof(sizes))
    return list(sizes)


def new_scheduler(library: Library, backends: Sequence[int], nodes: int) -> int:
    """A `ggml_backend_sched` over `backends`, which prefers the first and ends with the CPU."""
    handles = (ctypes.c_void_p * len(backends))(*backends)
    return int(
        library.ggml_backend_sched_new(ctypes.addressof(handles), None, len(backends), nodes, False, True)
    )


def device_id(library: Library, device: int) -> str:
    """A lasting identifier of the device, empty if it has none."""
    properties = ggml_backend_dev_props()
    library.ggml_backend_dev_get_props(device, ctypes.addressof(properties))
    return (properties.device_id or b"").decode("utf-8", "replace")


def device_memory(library: Library, device: int) -> tuple[int, int]:
    """Free and total bytes of a device."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    library.ggml_backend_dev_memory(device, ctypes.addressof(free), ctypes.addressof(total))
    return free.value, total.value


def extra_buffer_types(library: Library, device: int) -> list[int]:
    """Buffer types that store matrices in the device's preferred order."""
    registry = library.ggml_backend_dev_backend_reg(device)
    address = library.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return []
    listed = _ExtraBufferTypes(address)(device)
    found: list[int] = []
    while listed and listed[len(found)]:
        found.append(listed[len(found)])
    return found


def rpc_devices(library: Library, endpoint: str) -> list[int]:
    """The devices of the RPC server at `host:port`.

    Raises:
        BackendError: this ggml was built without RPC, or nobody answers there.
    """
    registry = library.ggml_backend_rpc_add_server(endpoint.encode())
    if not registry:
        raise library.failure(f"no RPC server answers at {endpoint}")
    count = library.ggml_backend_reg_dev_count(registry)
    return [library.ggml_backend_reg_dev_get(registry, index) for index in range(count)]


class Interrupt:
    """A flag that ends computations of a CPU backend, from any thread and without waiting for Python.

    ggml asks a C function before every node whether to stop. The C library's `strlen` answers: of the
    empty string it is 0, of a string of one byte it is 1.
    """

    def __init__(self, library: Library, backend: int) -> None:
        self._text = ctypes.create_string_buffer(2)
        strlen = ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p).value
        library.ggml_backend_cpu_set_abort_callback(backend, strlen, ctypes.addressof(self._text))

    def set(self) -> None:
        """Ends the running computation and every later one, until `clear`."""
        self._text[0] = b"\x01"

    def clear(self) -> None:
        """Lets computations run again."""
        self._text[0] = b"\x00"


def to_float(library: Library, type: int, source: int, target: int, count: int) -> None:
    """Converts `count` elements of a type at `source` to float32 at `target`."""
    traits = ggml_type_traits.from_address(library.ggml_get_type_traits(type))
    _ToFloat(traits.to_float)(source, target, count)
