"""Bringing weights from the file to their devices."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from puna.ggml.enums import BackendBufferUsage
from puna.gguf import GGUFFile, TensorInfo
from puna.gguf.byteorder import swap_bytes
from puna.linux import prefer_large_pages
from puna.ml.array import Array
from puna.ml.backends.ggml import placement
from puna.ml.backends.ggml.weights import Storage, Weight

if TYPE_CHECKING:
    from puna.ggml import Library


def memory_size(library: Library, weight: Weight) -> int:
    """Bytes that the weight takes on its device, padding included."""
    if weight.storage is Storage.MAPPED:
        return weight.file_bytes
    size = int(library.ggml_backend_buft_get_alloc_size(weight.buffer_type, weight.handle))
    return _padded(size, int(library.ggml_backend_buft_get_alignment(weight.buffer_type)))


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def allocate(library: Library, weights: Sequence[Weight], buffer_type: int) -> int | None:
    """One buffer for all `weights`, which share `buffer_type`; None if the device has not the memory."""
    sizes = [memory_size(library, weight) for weight in weights]
    alignment = int(library.ggml_backend_buft_get_alignment(buffer_type))
    # The buffer's start is aligned up, so leave room for that.
    buffer = library.ggml_backend_buft_alloc_buffer(buffer_type, sum(sizes) + alignment)
    if not buffer:
        return None
    library.ggml_backend_buffer_set_usage(buffer, BackendBufferUsage.WEIGHTS)
    base = library.ggml_backend_buffer_get_base(buffer)
    if weights[0].device == placement.CPU:
        prefer_large_pages(base, sum(sizes))
    position = _padded(base, alignment)
    for weight, size in zip(weights, sizes, strict=True):
        library.ggml_backend_tensor_alloc(buffer, weight.handle, position)
        position += size
    return int(buffer)


def map_file(library: Library, file: GGUFFile, weights: Sequence[Weight]) -> int:
    """One buffer over the mapped file, with every mapped weight at its place in it."""
    base = np.frombuffer(file.mmap, np.uint8).ctypes.data
    buffer = library.ggml_backend_cpu_buffer_from_ptr(base, file.size)
    library.ggml_backend_buffer_set_usage(buffer, BackendBufferUsage.WEIGHTS)
    for weight in weights:
        library.ggml_backend_tensor_alloc(buffer, weight.handle, base + weight.sources[0].offset)
    return int(buffer)


def read(
    library: Library,
    file: GGUFFile,
    weights: Sequence[Weight],
    threads: int,
    progress: Callable[[float], None],
) -> None:
    """Copies every weight that is not mapped from the file to its buffer."""
    total = sum(weight.file_bytes for weight in weights) or 1
    copied = [weight for weight in weights if weight.storage is not Storage.MAPPED]
    done = total - sum(weight.file_bytes for weight in copied)
    progress(done / total)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for weight, _ in zip(copied, pool.map(lambda w: _copy(library, file, w), copied), strict=True):
            done += weight.file_bytes
            progress(done / total)


def _copy(library: Library, file: GGUFFile, weight: Weight) -> None:
    parts = [_content(library, file, source, weight) for source in weight.sources]
    content = parts[0] if len(parts) == 1 else np.concatenate(parts)
    # A repacked buffer takes a tensor only whole and in one call.
    library.ggml_backend_tensor_set(weight.handle, content.ctypes.data, 0, content.nbytes)
    for source in weight.sources:
        _release(file, source)


def _content(library: Library, file: GGUFFile, source: TensorInfo, weight: Weight) -> Array:
    """The tensor's bytes as the weight holds them, in this machine's byte order."""
    raw = file.tensor_bytes(source.name)
    native = (file.byte_order == "<") == (sys.byteorder == "little")
    content = np.frombuffer(raw if native else swap_bytes(source.type, raw), np.uint8)
    return content if weight.change is None else weight.change(library, content, source)


def _release(file: GGUFFile, source: TensorInfo) -> None:
    """Lets the system drop the file's pages that were copied."""
    start = -(-source.offset // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (source.offset + source.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - start
    if length > 0:
        file.mmap.madvise(mmap.MADV_DONTNEED, start, length)
