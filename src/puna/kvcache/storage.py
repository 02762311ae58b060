"""The tensors in which a cache keeps keys and values, one pair for each layer."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from puna.errors import InvalidOption
from puna.kvcache.cache import Shift
from puna.ml import Backend, Context, DType, Tensor
from puna.ml.nn import merge_heads

_BLOCK = {DType.F32: 1, DType.F16: 1, DType.Q8_0: 32, DType.Q4_0: 32}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's storage.

    Attributes:
        key: (cells, kv_heads * d_k).
        value: (cells, kv_heads * d_v), or (kv_heads * d_v, cells) if permuted.
        key_heads: shape of one cell's key, (kv_heads, d_k).
        value_heads: shape of one cell's value, (kv_heads, d_v).
    """

    key: Tensor
    value: Tensor
    key_heads: tuple[int, int]
    value_heads: tuple[int, int]


class Storage:
    """Keys and values of every layer that has asked for room so far.

    Attributes:
        cells: rows of each tensor. The last takes what belongs to no token.
        permuted: values lie by element instead of by cell, see `CacheConfig.permuted_v`.
    """

    def __init__(self, backend: Backend, dtype: DType, cells: int, *, permuted: bool) -> None:
        if dtype not in _BLOCK:
            raise InvalidOption(
                f"a cache of type {dtype.name} is not possible; choose F32, F16, Q8_0 or Q4_0"
            )
        if permuted and _BLOCK[dtype] > 1:
            raise InvalidOption(
                f"a cache of type {dtype.name} needs flash attention; choose F16 or turn it on"
            )
        self.cells = cells
        self.permuted = permuted
        self._backend = backend
        self._dtype = dtype
        self._layers: dict[int, Layer] = {}
        self._contexts: list[Context] = []

    def layer(self, index: int, key: tuple[int, int], value: tuple[int, int]) -> Layer:
        """The storage of layer `index`, allocated when it is asked for first.

        Args:
            key: (kv_heads, d_k).
            value: (kv_heads, d_v).

        Raises:
            InvalidOption: block types need rows of whole blocks.
            InsufficientMemory: no room on the layer's device.
        """
        if index not in self._layers:
            self._layers[index] = self._allocate(index, key, value)
        return self._layers[index]

    def _allocate(self, index: int, key: tuple[int, int], value: tuple[int, int]) -> Layer:
        if key[1] % _BLOCK[self._dtype] or value[1] % _BLOCK[self._dtype]:
            raise InvalidOption(
                f"a cache of type {self._dtype.name} needs heads of whole blocks of {_BLOCK[self._dtype]} "
                f"elements, but this model's have {key[1]} and {value[1]}; choose F16"
            )
        context = self._backend.new_context_size(2)
        self._contexts.append(context)
        device = context.layer(index)
        by_cell = (self.cells, value[0] * value[1])
        return Layer(
            device.zeros(self._dtype, self.cells, key[0] * key[1]),
            device.zeros(self._dtype, *(by_cell[::-1] if self.permuted else by_cell)),
            key,
            value,
        )

    def rotate(self, cells: NDArray[np.int64], offset: int, shift: Shift) -> None:
        """Turns the keys of `cells` in all layers from their positions to those `offset` further on."""
        if not self._layers:
            return
        with self._backend.new_context() as context:
            ids = context.input().from_ints(cells.astype(np.int32), cells.size)
            offsets = context.input().from_ints(np.full(cells.size, offset, np.int32), cells.size)
            for index, layer in self._layers.items():
                stored = layer.key.on(context)
                key = stored.rows(ids).reshape(cells.size, *layer.key_heads)
                context.forward(stored.set_rows(merge_heads(shift(index, key, offsets)), ids))
            context.compute()

    @property
    def copies(self) -> bool:
        """Whether `copy` is possible: what is stored can be read and written back as it is."""
        return not self.permuted and _BLOCK[self._dtype] == 1

    def copy(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        """Writes into the cells `target`, in all layers, what the cells `source` hold."""
        if not self._layers:
            return
        with self._backend.new_context() as context:
            read = context.input().from_ints(source.astype(np.int32), source.size)
            write = context.input().from_ints(target.astype(np.int32), target.size)
            for layer in self._layers.values():
                for stored in (layer.key.on(context), layer.value.on(context)):
                    context.forward(stored.set_rows(stored.rows(read), write))
            context.compute()

    def close(self) -> None:
        """Frees every layer's tensors."""
        for context in self._contexts:
            context.close()
        self._contexts.clear()
        self._layers.clear()
