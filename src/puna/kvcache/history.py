"""A causal cache as a graph sees it: inputs, and each layer's reads and writes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from puna.kvcache.cache import History
from puna.kvcache.cells import Batch, Cells, Positions, Span, hidden
from puna.kvcache.storage import Layer, Storage
from puna.ml import Context, DType, Tensor
from puna.ml.nn import LayerHistory, merge_heads

_MINUS_INFINITY: dict[DType, np.unsignedinteger] = {
    DType.F16: np.uint16(0xFC00),
    DType.F32: np.uint32(0xFF800000),
}


def minus_infinity(dtype: DType) -> np.unsignedinteger:
    """The bits of -inf. Masks are written as bits, since the product of False and -inf would be NaN."""
    return _MINUS_INFINITY[dtype]


@dataclass(slots=True)
class Ledger:
    """What a cache and its graphs share.

    Attributes:
        cells: the books.
        storage: the tensors.
        lowest_seen: the first positions that tokens at given positions see, None for all.
        batch: the batch last started.
    """

    cells: Cells
    storage: Storage
    lowest_seen: Callable[[Positions], Positions | None]
    batch: Batch


@dataclass
class CausalHistory(History):
    """One graph's view of a causal cache.

    Attributes:
        ledger: the cache's.
        context: the graph.
        tokens: the most tokens that a batch in this graph has.
        span: the cells that the graph looks at.
        cells: input I64 (tokens,), the cell of each token.
        mask: input (tokens padded, cells of the span), 0 or -inf.
        value_cells: inputs I64 (tokens * width,), by width: the place of each element of permuted values.

    `_shown` is the state of the books for which the mask was made last.
    """

    ledger: Ledger
    context: Context
    tokens: int
    span: Span
    cells: Tensor
    mask: Tensor
    value_cells: dict[int, Tensor] = field(default_factory=dict)
    _shown: int = field(default=-2, init=False)

    def layer(self, index: int) -> "CausalLayer":
        return CausalLayer(self, index)

    def fill(self) -> None:
        batch, changes = self.ledger.batch, self.ledger.cells.changes
        if batch.follows == self._shown and self.tokens == 1:
            # The mask is that of the token before, which did not see this one's cell.
            cell = batch.cells[0]
            self._mask_bits[0, cell - self.span.begin] = 0
            self._cell_numbers[0] = cell
            self._fill_value_cells()
        else:
            self._fill_all(batch)
        self._shown = changes

    def _fill_all(self, batch: Batch) -> None:
        count = batch.cells.size
        bits, rows, minus_infinity = self._mask_bits, self.tokens, self._minus_infinity
        lowest = self.ledger.lowest_seen(batch.positions)
        covered = hidden(self.ledger.cells, self.span, batch, lowest)
        np.multiply(covered, minus_infinity, out=bits[:count])
        self._cell_numbers[:count] = batch.cells
        if count < rows:
            # Leftover rows see what the last token sees, to stay finite, and write where nobody reads.
            bits[count:rows] = bits[count - 1]
            self._cell_numbers[count:] = self.ledger.storage.cells - 1
        self._fill_value_cells()

    def _fill_value_cells(self) -> None:
        for width, tensor in self.value_cells.items():
            elements = np.arange(width) * self.ledger.storage.cells
            tensor.array()[:] = (self._cell_numbers[:, None] + elements).reshape(-1)

    @cached_property
    def _minus_infinity(self) -> np.unsignedinteger:
        return minus_infinity(self.mask.dtype)

    @cached_property
    def _mask_bits(self) -> NDArray[np.unsignedinteger]:
        bits = self.mask.array().view(self._minus_infinity.dtype)
        bits[self.tokens :] = self._minus_infinity
        return bits

    @cached_property
    def _cell_numbers(self) -> NDArray[np.int64]:
        return self.cells.array()


class CausalLayer(LayerHistory):
    """One layer of a causal cache in one graph."""

    def __init__(self, history: CausalHistory, index: int) -> None:
        self._history = history
        self._index = index

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `puna.ml.nn.LayerHistory`; key and value come back as views of the cells in the span."""
        storage = self._history.ledger.storage
        layer = storage.layer(self._index, _heads(key), _heads(value))
        keys, values = layer.key.on(self._history.context), layer.value.on(self._history.context)
        write_key = keys.set_rows(merge_heads(key), self._history.cells)
        if storage.permuted:
            self._history.context.forward(write_key, self._write_permuted(values, value))
            return _by_cell(keys, layer.key_heads, self._span), self._permuted(values, layer), self._mask
        write_value = values.set_rows(merge_heads(value), self._history.cells)
        self._history.context.forward(write_key, write_value)
        return (
            _by_cell(keys, layer.key_heads, self._span),
            _by_cell(values, layer.value_heads, self._span),
            self._mask,
        )

    @property
    def _span(self) -> Span:
        return self._history.span

    @property
    def _mask(self) -> Tensor:
        return self._history.mask

    def _write_permuted(self, values: Tensor, value: Tensor) -> Tensor:
        elements, (width, cells) = value.shape[0] * value.shape[1] * value.shape[2], values.shape
        places = self._history.value_cells
        if width not in places:
            places[width] = self._history.context.input().empty(DType.I64, elements)
        return values.reshape(width * cells, 1).set_rows(value.reshape(elements, 1), places[width])

    def _permuted(self, values: Tensor, layer: Layer) -> Tensor:
        heads, size = layer.value_heads
        row, (begin, count) = values.stride(0), self._span
        return values.view(begin * values.stride(1), (heads, size, count), (size * row, row))


def _heads(tensor: Tensor) -> tuple[int, int]:
    """(heads, size) of a tensor (tokens, heads, size)."""
    return tensor.shape[1], tensor.shape[2]


def _by_cell(stored: Tensor, heads: tuple[int, int], span: Span) -> Tensor:
    """The cells of a span of storage (cells, heads * size) as (span.length, heads, size)."""
    row = stored.stride(0)
    return stored.view(span.begin * row, (span.length, *heads), (row, row // heads[0]))
