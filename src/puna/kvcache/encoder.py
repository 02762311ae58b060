"""The cache of what an image encoder made: keys and values that tokens look at across, not back.

The keys and values of a picture depend on the picture only. They lie in blocks of rows, one block for each
tile, which sequences with the same picture share. A token sees the latest pictures before it, or at it:
those whose positions follow each other without text between. Earlier ones are let go of, for no later token
sees them (as in the processor of transformers, and the training of Llama 3.2).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from puna.errors import InvalidOption
from puna.kvcache.cache import CacheFull, Crossed, History, Integers, Member
from puna.kvcache.cells import Flags, Span, padded
from puna.kvcache.history import minus_infinity
from puna.kvcache.storage import Storage
from puna.ml import Backend, Context, DType, Tensor
from puna.ml.backend import CacheConfig
from puna.ml.nn import LayerHistory, merge_heads

_SHARED_LEAST = 2
"""Pictures of the largest kind that fit a cache in any case."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in a sequence.

    Attributes:
        position: of its token.
        key: tells it from others, such as the digest of its content.
        blocks: where its keys and values lie, in order.
    """

    position: int
    key: bytes
    blocks: tuple[int, ...]


@dataclass(slots=True)
class Looking:
    """What the cache and its graphs share.

    Attributes:
        storage: the tensors.
        heads: (kv_heads, size) of a key, and of a value.
        rows: of a block that mean something; the others fill it up to `block` rows.
        block: rows of a block.
        visible: which blocks the tokens of the batch last started see, bool (tokens, blocks).
    """

    storage: Storage
    heads: tuple[int, int]
    rows: int
    block: int
    visible: Flags


@dataclass
class EncoderHistory(History):
    """One graph's view of the pictures.

    Attributes:
        shared: the cache's.
        context: the graph.
        tokens: the most tokens that a batch in this graph has.
        span: the blocks that the graph looks at.
        mask: input (tokens, rows of the span), 0 or -inf.
        seeing: input F32 (tokens, 1), 1 for tokens that see anything, else 0.
        permuted: see `CacheConfig.permuted_v`.
    """

    shared: Looking
    context: Context
    tokens: int
    span: Span
    mask: Tensor
    seeing: Tensor
    permuted: bool

    def layer(self, index: int) -> LayerHistory:
        raise InvalidOption(f"layer {index} looks across at pictures, it has no history of its own")

    def crossed(self, index: int) -> Crossed | None:
        layer = self.shared.storage.layer(index, self.shared.heads, self.shared.heads)
        begin, count = self.span.begin * self.shared.block, self.span.length * self.shared.block
        key = layer.key.on(self.context).slice(0, begin, begin + count)
        value = layer.value.on(self.context).slice(0, begin, begin + count)
        keys, values = _split(key, layer.key_heads), _split(value, layer.value_heads)
        if self.permuted:
            values = values.permute(1, 2, 0).contiguous()
        return Crossed(keys, values, self.mask, self.seeing)

    def fill(self) -> None:
        begin, length = self.span
        visible = self.shared.visible[:, begin : begin + length]
        count = len(visible)
        sees = visible.any(axis=1)
        self._seeing[:count, 0], self._seeing[count:] = sees, 0
        bits, infinity = self._mask_bits, minus_infinity(self.mask.dtype)
        bits[:] = infinity
        rows = bits[:count].reshape(count, length, self.shared.block)[:, :, : self.shared.rows]
        rows[visible] = 0
        # Who sees nothing looks at one row, to stay finite; `seeing` makes it count nothing.
        bits[:count][~sees, 0] = 0
        bits[count:, 0] = 0

    @cached_property
    def _mask_bits(self) -> NDArray[np.unsignedinteger]:
        return self.mask.array().view(minus_infinity(self.mask.dtype).dtype)

    @cached_property
    def _seeing(self) -> NDArray[np.float32]:
        return self.seeing.array()


@dataclass(frozen=True, slots=True)
class NoPictures(History):
    """The view of a graph none of whose tokens sees a picture."""

    def layer(self, index: int) -> LayerHistory:
        raise InvalidOption(f"layer {index} looks across at pictures, it has no history of its own")

    def fill(self) -> None:
        """There is nothing to write."""


class EncoderCache(Member):
    """Pictures' keys and values for the layers that look across."""

    def __init__(self, rows: int, tiles: int, layers: Sequence[int], heads: tuple[int, int]) -> None:
        """Makes a cache without room.

        Args:
            rows: keys of one tile.
            tiles: the most tiles of a picture.
            layers: the numbers of those that look across.
            heads: (kv_heads, size) of a key, and of a value.
        """
        self._rows, self._tiles = rows, tiles
        self._layers, self._heads = tuple(layers), heads
        self._pictures: dict[int, list[Picture]] = {}
        # Behind this position a sequence can go on; before it, it would see pictures that are gone.
        self._floors: dict[int, int] = {}

    def init(self, backend: Backend, dtype: DType, max_sequences: int, capacity: int, max_batch: int) -> None:
        self._config: CacheConfig = backend.cache_config()
        self._blocks = max(_SHARED_LEAST, max_sequences) * self._tiles
        block = padded(self._rows, self._config.cache_padding)
        storage = Storage(backend, dtype, self._blocks * block, permuted=False)
        self._shared = Looking(storage, self._heads, self._rows, block, np.zeros((0, self._blocks), np.bool_))

    # -- pictures -------------------------------------------------------------------------------------

    @property
    def encoder(self) -> "EncoderCache":
        return self

    def pictures(self, sequence: int) -> Sequence[Picture]:
        """Those of a sequence that its next token may see, in their order."""
        return self._pictures.get(sequence, ())

    def place(self, sequence: int, position: int, key: bytes, tiles: int) -> tuple[int, ...]:
        """Puts a picture into a sequence, at whose end it stands.

        Returns:
            The blocks into which its keys and values are to be written; none, if they are there.

        Raises:
            InvalidOption: there would never be room for it together with those before it.
            CacheFull: there is no room; nothing has changed but that earlier pictures are gone.
        """
        own = self._pictures.get(sequence, [])
        if own and own[-1].position != position - 1:
            self._floors[sequence] = position
            own = []
        self._pictures[sequence] = own
        # A picture that stands there twice counts twice.
        others = (one for one in self._all() if one.blocks not in [mine.blocks for mine in own])
        known = next((one for one in others if one.key == key and len(one.blocks) == tiles), None)
        together = {block for one in own for block in one.blocks}
        if not known and len(together) + tiles > self._blocks:
            self._tidy(sequence)
            raise InvalidOption(
                f"pictures of {len(together) + tiles} tiles stand together; there is room for "
                f"{self._blocks}: put text between them, or send fewer"
            )
        free = [] if known else sorted(set(range(self._blocks)) - self._used())
        if not known and len(free) < tiles:
            self._tidy(sequence)
            raise CacheFull(
                f"a picture of {tiles} tiles does not fit: {len(free)} of {self._blocks} are free"
            )
        blocks = known.blocks if known else tuple(free[:tiles])
        own.append(Picture(position, key, blocks))
        return () if known else blocks

    def write(self, context: Context, layer: int, key: Tensor, value: Tensor, blocks: Sequence[int]) -> None:
        """Adds the writing of a picture's keys and values to a graph.

        Args:
            key: F32 (rows of all blocks, kv_heads, size).
            value: the same.
        """
        numbers = np.concatenate([block * self._shared.block + np.arange(self._rows) for block in blocks])
        rows = context.input().from_ints(numbers.astype(np.int32), numbers.size)
        stored = self._shared.storage.layer(layer, self._heads, self._heads)
        context.forward(
            stored.key.on(context).set_rows(merge_heads(key), rows),
            stored.value.on(context).set_rows(merge_heads(value), rows),
        )

    def _all(self) -> list[Picture]:
        return [picture for pictures in self._pictures.values() for picture in pictures]

    def _used(self) -> set[int]:
        return {block for picture in self._all() for block in picture.blocks}

    def _tidy(self, sequence: int) -> None:
        if not self._pictures.get(sequence):
            self._pictures.pop(sequence, None)

    # -- the engine's view ----------------------------------------------------------------------------

    def start(self, positions: Integers, sequences: Integers) -> Hashable:
        where, whose = np.asarray(positions, np.int32), np.asarray(sequences, np.int64)
        visible = np.zeros((where.size, self._blocks), np.bool_)
        for sequence in set(whose.tolist()) & self._pictures.keys():
            rows = (whose == sequence).nonzero()[0]
            for picture in self._pictures[sequence]:
                later = rows[where[rows] >= picture.position]
                visible[np.ix_(later, picture.blocks)] = True
        self._shared.visible = visible
        seen = np.flatnonzero(visible.any(axis=0))
        return Span(int(seen[0]), int(seen[-1] - seen[0]) + 1) if seen.size else None

    def undo(self) -> None:
        """Pictures do not come with `start`, so none leaves."""

    def trace(self, context: Context, tokens: int, shape: Hashable) -> History:
        if shape is None:
            return NoPictures()
        if not isinstance(shape, Span):
            raise InvalidOption(f"{shape!r} is not a shape of this cache")
        for index in self._layers:
            self._shared.storage.layer(index, self._heads, self._heads)
        inputs, cells = context.input(), shape.length * self._shared.block
        return EncoderHistory(
            self._shared,
            context,
            tokens,
            shape,
            inputs.empty(self._config.mask_dtype, tokens, cells),
            inputs.empty(DType.F32, tokens, 1),
            self._config.permuted_v,
        )

    def worst_case(self) -> Hashable:
        return Span(0, self._blocks)

    def check_remove(self, sequence: int, begin: int, end: int | None) -> None:
        """Nothing stands in the way."""

    def remove(self, sequence: int, begin: int, end: int | None = None) -> None:
        if end is not None and end <= begin:
            return
        kept = []
        for one in self._pictures.get(sequence, ()):
            if one.position < begin:
                kept.append(one)
            elif end is not None and one.position >= end:
                kept.append(Picture(one.position - (end - begin), one.key, one.blocks))
        self._pictures[sequence] = kept
        self._tidy(sequence)
        if begin == 0:
            self._floors.pop(sequence, None)

    def copy_prefix(self, source: int, target: int, length: int, *, apart: bool = False) -> None:
        self.remove(target, 0)
        self._pictures[target] = [one for one in self.pictures(source) if one.position < length]
        self._tidy(target)
        if source in self._floors:
            self._floors[target] = self._floors[source]

    def can_resume(self, sequence: int, position: int) -> bool:
        return position == 0 or position > self._floors.get(sequence, -1)

    @property
    def taken(self) -> int:
        return len(self._used())

    def fits(self, growth: Sequence[tuple[int, int]]) -> bool:
        return True

    def owners(self) -> set[int]:
        return set(self._pictures)

    def is_whole(self, sequence: int, length: int) -> bool:
        return all(one.position < length for one in self.pictures(sequence))

    def close(self) -> None:
        self._shared.storage.close()


def _split(stored: Tensor, heads: tuple[int, int]) -> Tensor:
    """Rows of storage (cells, heads * size) as (cells, heads, size)."""
    row = stored.stride(0)
    return stored.view(0, (stored.shape[0], *heads), (row, row // heads[0]))
