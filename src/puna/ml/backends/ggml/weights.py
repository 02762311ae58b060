"""Weights: which tensors a model asked for, and how and where each is kept.

On the CPU a weight is one of three things: repacked, copied into the order in which the processor's matrix
kernels read fastest; plain, a copy; or, in a large model, mapped, a window into the file, shared between
processes and read when first touched. Other devices always hold plain copies.
"""

from __future__ import annotations

import math
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from puna.ggml import access
from puna.ggml.processor import vendor
from puna.gguf import GGMLType, GGUFFile, TensorInfo
from puna.linux import own_memory_limit
from puna.ml.backend import BackendParams
from puna.ml.backends.ggml import placement, transcode
from puna.ml.backends.ggml.tensor import GGMLTensor, dtype_of, extents

if TYPE_CHECKING:
    from puna.ggml import Library

# Weights in memory of their own have large pages, are read up to a tenth faster than those of a mapped file,
# and can be fused. A model that takes more than this share of the machine's memory stays a file that is there
# at once, and whose pages the system can give up.
_COPIED_SHARE = 1 / 4
_TRANSCODE_GROWTH = 0.2

# From this version on, x86 multiplies these types faster in tiles of the plain order than repacked:
# 192 against 122 GFLOP/s for Q4_K at 512 vectors on one core with AVX-512.
_TILED_SINCE = (0, 25)
_TILED = {GGMLType.Q2_K, GGMLType.Q3_K, GGMLType.Q4_K, GGMLType.Q5_K, GGMLType.Q6_K}
_X86 = {"x86_64", "AMD64"}

# tinyBLAS multiplies F32 so much faster than these types (108 GFLOP/s against 33 to 72 on one core with
# AVX-512) that converting the matrix first pays from about 100 vectors on.
_WIDENED = {
    GGMLType.F16,
    GGMLType.BF16,
    GGMLType.Q8_0,
    GGMLType.Q4_1,
    GGMLType.Q5_0,
    GGMLType.Q5_1,
}
_WIDEST = 64 << 20

# AMD's processors have half the width for F32 that Intel's servers have: 70 GFLOP/s on a core of Zen 4, but
# 80 to 108 with types that tinyBLAS knows, and 125 to 190 with BF16.
_WIDENED_BY_AMD = {GGMLType.Q4_1, GGMLType.Q5_1}
_AMD = "AuthenticAMD"
_ROUNDED_FROM = 1 << 16  # elements

_EXPERTS = re.compile(r"_exps\b")


class Storage(Enum):
    """How a weight is kept."""

    MAPPED = "mapped"
    REPACKED = "repacked"
    PLAIN = "plain"


@dataclass(slots=True)
class Weight:
    """One tensor in memory.

    Attributes:
        sources: the tensors of the file whose rows it holds, in order.
        handle: address of its `ggml_tensor`.
        shape: its sizes, slowest first.
        type: element type in memory.
        device: 0 for the CPU, else which other device.
        layer: layer it is booked on; None for the input.
        storage: how it is kept.
        buffer_type: ggml's buffer type, 0 if mapped.
        change: makes its bytes of the file's, None if they are the same.
    """

    sources: tuple[TensorInfo, ...]
    handle: int
    shape: tuple[int, ...]
    type: GGMLType
    device: int
    layer: int | None
    storage: Storage
    buffer_type: int
    change: transcode.Convert | None = None

    @property
    def file_bytes(self) -> int:
        """Bytes to read from the file."""
        return sum(source.nbytes for source in self.sources)

    @property
    def is_of_experts(self) -> bool:
        """Whether its matrices are for `mul_mat_id`, by its name; other stacks are for `mul_mat`."""
        return _EXPERTS.search(self.sources[0].name) is not None


class Weights:
    """Every weight that a model asked for, planned but not allocated.

    Attributes:
        asked: the weights, in the order in which they were asked for.
        rounds: whether the model bears BF16 in place of more exact types.
    """

    def __init__(
        self,
        library: Library,
        file: GGUFFile,
        params: BackendParams,
        cpu: int,
        layers: Sequence[int],
        buffer_types: Mapping[int, int],
    ) -> None:
        """Prepares to plan.

        Args:
            cpu: the CPU's device handle.
            layers: each layer's device, the output's last.
            buffer_types: each device's buffer type.
        """
        self.library = library
        self.file = file
        self.params = params
        self.asked: list[Weight] = []
        self.rounds = False
        self._cpu = cpu
        self._layers = layers
        self._buffer_types = buffer_types
        self._by_name: dict[tuple[tuple[str, ...], bool], GGMLTensor] = {}
        self._closed = False
        memory = min(access.device_memory(library, cpu)[1], own_memory_limit())
        self._copies = file.size <= memory * _COPIED_SHARE
        # For each weight its own tensor, one of offsets, and a product to ask about.
        tensors = 5 * (2 * len(file.tensors) + 8)
        self._context = access.new_context(library, tensors * library.ggml_tensor_overhead())
        self._room = self._room_to_grow()

    def get(self, sources: tuple[TensorInfo, ...], rows: bool) -> GGMLTensor | None:
        """The tensor for the rows of `sources`; None if it is new and nothing can be added any more."""
        key = (tuple(source.name for source in sources), rows)
        if key not in self._by_name:
            if self._closed:
                return None
            self._by_name[key] = self._plan(sources, rows)
        return self._by_name[key]

    def fits_together(self, sources: Sequence[TensorInfo]) -> bool:
        """Whether these are better stored as one matrix."""
        alike = len({(source.type, source.shape[1:]) for source in sources}) == 1
        return self.params.fuse and alike and self._copies

    def seal(self) -> None:
        """Ends planning."""
        self._closed = True

    def free(self) -> None:
        """Frees the tensors' metadata."""
        self.library.ggml_free(self._context)

    def _room_to_grow(self) -> float:
        """Bytes that transcoding may add; -1 for none, where widening serves better."""
        if self.params.transcode is None and not self._fast_f32:
            return _TRANSCODE_GROWTH * sum(tensor.nbytes for tensor in self.file.tensors.values())
        return math.inf if self.params.transcode else -1.0

    @property
    def _fast_f32(self) -> bool:
        """Whether the CPU multiplies F32 faster than narrow types that it has to unpack."""
        return bool(self.library.ggml_cpu_has_llamafile()) and platform.machine() in _X86

    @property
    def _fast_bf16(self) -> bool:
        """Whether the CPU multiplies BF16 faster than F32."""
        return self._fast_f32 and vendor() == _AMD and bool(self.library.ggml_cpu_has_avx512_bf16())

    def _change(self, sources: Sequence[TensorInfo], rows: bool) -> transcode.Change | None:
        """What these become in memory, if that is faster and there is room for it."""
        if rows or len(sources[0].shape) != 2:
            return None
        if self._rounds(sources):
            return transcode.ROUNDED.get(sources[0].type)
        change = transcode.CHANGES.get(sources[0].type)
        if change is None:
            return None
        growth = sum(change.nbytes(source.shape) - source.nbytes for source in sources)
        if growth > self._room:
            return None
        self._room -= growth
        return change

    def _rounds(self, sources: Sequence[TensorInfo]) -> bool:
        """Whether these become BF16, if they are of a more exact type."""
        allowed = self.rounds and self.params.transcode is not False
        here = set(self._layers) == {placement.CPU}
        large = math.prod(_joined(sources)) >= _ROUNDED_FROM
        return allowed and here and large and sources[0].type in transcode.ROUNDED and self._fast_bf16

    def _plan(self, sources: tuple[TensorInfo, ...], rows: bool) -> GGMLTensor:
        shape = _joined(sources)
        change = self._change(sources, rows)
        if change is None:
            return self._tensor(self._add(sources, shape, sources[0].type, rows))
        tensor = self._tensor(self._add(sources, shape, change.type, rows, change.convert))
        if change.offsets is not None:
            width = (*shape[:-1], shape[-1] // transcode.BLOCK)
            tensor.offsets = self._tensor(
                self._add(sources, width, GGMLType.F16, rows, change.offsets, repack=False)
            )
        return tensor

    def _tensor(self, weight: Weight) -> GGMLTensor:
        tensor = GGMLTensor(self.library, weight.handle, weight.shape, dtype_of(weight.type), None)
        tensor.widens = self._widens(weight)
        return tensor

    def _widens(self, weight: Weight) -> bool:
        """Whether to convert the weight to F32, in the compute buffer, for products with many vectors."""
        stored = weight.device == placement.CPU and weight.storage is not Storage.REPACKED
        fits = len(weight.shape) == 2 and 4 * math.prod(weight.shape) <= _WIDEST
        widened = _WIDENED_BY_AMD if vendor() == _AMD else _WIDENED
        return self._fast_f32 and stored and fits and weight.type in widened

    def _add(
        self,
        sources: tuple[TensorInfo, ...],
        shape: tuple[int, ...],
        type: GGMLType,
        rows: bool,
        change: transcode.Convert | None = None,
        repack: bool = True,
    ) -> Weight:
        layer = None if rows else placement.layer_of(sources[0].name, len(self._layers) - 1)
        device = placement.CPU if layer is None else self._layers[layer]
        handle = self.library.ggml_new_tensor(self._context, type, len(shape), extents(shape))
        self.library.ggml_set_name(handle, sources[0].name.encode())
        buffer_type = self._buffer_types[device]
        weight = Weight(sources, handle, shape, type, device, layer, Storage.PLAIN, buffer_type, change)
        if device == placement.CPU:
            self._choose_storage(weight, repack and not rows)
        self.asked.append(weight)
        return weight

    def _choose_storage(self, weight: Weight, repack: bool) -> None:
        wanted = repack and self.params.repack is not False
        repacked = self._repacked_type(weight) if wanted else None
        if repacked is not None:
            weight.storage, weight.buffer_type = Storage.REPACKED, repacked
        elif not self._copies and len(weight.sources) == 1 and weight.change is None and self._is_native():
            weight.storage, weight.buffer_type = Storage.MAPPED, 0

    def _is_native(self) -> bool:
        return (self.file.byte_order == "<") == (sys.byteorder == "little")

    def _repacked_type(self, weight: Weight) -> int | None:
        """The first buffer type of the CPU that multiplies faster with this weight, if any does."""
        if not 2 <= len(weight.shape) <= 3 or weight.shape[-2] == 1 or self._is_tiled(weight):
            return None
        product = self._trial_product(weight)
        for buffer_type in access.extra_buffer_types(self.library, self._cpu):
            buffer = self.library.ggml_backend_buft_alloc_buffer(buffer_type, 0)
            access.place(weight.handle, buffer, 0)
            fits = self.library.ggml_backend_dev_supports_op(self._cpu, product)
            access.unplace(weight.handle)
            self.library.ggml_backend_buffer_free(buffer)
            if fits:
                return buffer_type
        return None

    def _is_tiled(self, weight: Weight) -> bool:
        tiles = self.library.version >= _TILED_SINCE and platform.machine() in _X86
        return tiles and self.params.repack is None and weight.type in _TILED and len(weight.shape) == 2

    def _trial_product(self, weight: Weight) -> int:
        """A product with the weight, as a model would make it, to ask a device about."""
        library, context, width = self.library, self._context, weight.shape[-1]
        if len(weight.shape) == 2:
            vectors = library.ggml_new_tensor_2d(context, GGMLType.F32, width, 2)
            return int(library.ggml_mul_mat(context, weight.handle, vectors))
        if not weight.is_of_experts:
            vectors = library.ggml_new_tensor_3d(context, GGMLType.F32, width, 2, weight.shape[0])
            return int(library.ggml_mul_mat(context, weight.handle, vectors))
        vectors = library.ggml_new_tensor_3d(context, GGMLType.F32, width, 1, 2)
        ids = library.ggml_new_tensor_2d(context, GGMLType.I32, 1, 2)
        return int(library.ggml_mul_mat_id(context, weight.handle, vectors, ids))


def _joined(sources: Sequence[TensorInfo]) -> tuple[int, ...]:
    """The shape of the sources' rows one below the other."""
    first = sources[0].shape
    return first if len(sources) == 1 else (sum(source.shape[0] for source in sources), *first[1:])
