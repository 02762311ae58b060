"""Several caches in step, each serving some of the layers."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from puna.errors import InvalidOption
from puna.kvcache.cache import Cache, CacheFull, Crossed, History, Integers, Member
from puna.kvcache.encoder import EncoderCache
from puna.ml import Backend, Context, DType
from puna.ml.nn import LayerHistory


@dataclass(frozen=True, slots=True)
class ComposedHistory(History):
    """One graph's view of several caches; `serves` says for each layer which of them is its own."""

    histories: tuple[History, ...]
    serves: tuple[int, ...]

    def layer(self, index: int) -> LayerHistory:
        return self.histories[self.serves[index]].layer(index)

    def crossed(self, index: int) -> Crossed | None:
        return self.histories[self.serves[index]].crossed(index)

    def fill(self) -> None:
        for history in self.histories:
            history.fill()


class Composed(Cache):
    """Every member books every token; what a layer keeps lies in one of them."""

    def __init__(self, members: Sequence[Member], serves: Sequence[int]) -> None:
        """Puts caches together.

        Args:
            members: the caches, none of which has been given room.
            serves: for each layer, the number of its cache.
        """
        self._members = tuple(members)
        self._serves = tuple(serves)

    def init(self, backend: Backend, dtype: DType, max_sequences: int, capacity: int, max_batch: int) -> None:
        for member in self._members:
            member.init(backend, dtype, max_sequences, capacity, max_batch)

    @property
    def encoder(self) -> EncoderCache | None:
        return next((member.encoder for member in self._members if member.encoder), None)

    def start(self, positions: Integers, sequences: Integers) -> Hashable:
        shapes: list[Hashable] = []
        try:
            for member in self._members:
                shapes.append(member.start(positions, sequences))
        except CacheFull:
            for member in self._members[: len(shapes)]:
                member.undo()
            raise
        return tuple(shapes)

    def look_ahead(self, horizons: NDArray[np.int32]) -> None:
        for member in self._members:
            member.look_ahead(horizons)

    def trace(self, context: Context, tokens: int, shape: Hashable) -> History:
        if not isinstance(shape, tuple) or len(shape) != len(self._members):
            raise InvalidOption(f"{shape!r} is not a shape of this cache")
        histories = (
            member.trace(context, tokens, own) for member, own in zip(self._members, shape, strict=True)
        )
        return ComposedHistory(tuple(histories), self._serves)

    def worst_case(self) -> Hashable:
        return tuple(member.worst_case() for member in self._members)

    def remove(self, sequence: int, begin: int, end: int | None = None) -> None:
        for member in self._members:
            member.check_remove(sequence, begin, end)
        for member in self._members:
            member.remove(sequence, begin, end)

    def copy_prefix(self, source: int, target: int, length: int, *, apart: bool = False) -> None:
        for member in self._members:
            member.copy_prefix(source, target, length, apart=apart)

    def can_resume(self, sequence: int, position: int) -> bool:
        return all(member.can_resume(sequence, position) for member in self._members)

    def resumable(self, sequence: int, length: int) -> int:
        while (least := min(member.resumable(sequence, length) for member in self._members)) < length:
            length = least
        return length

    @property
    def most_sequences(self) -> int:
        return min(member.most_sequences for member in self._members)

    @property
    def rewinds(self) -> bool:
        return all(member.rewinds for member in self._members)

    @property
    def taken(self) -> int:
        return max(member.taken for member in self._members)

    def fits(self, growth: Sequence[tuple[int, int]]) -> bool:
        return all(member.fits(growth) for member in self._members)

    def lies_together(self, tokens: int) -> bool:
        return all(member.lies_together(tokens) for member in self._members)

    def owners(self) -> set[int]:
        return set().union(*(member.owners() for member in self._members))

    def is_whole(self, sequence: int, length: int) -> bool:
        return all(member.is_whole(sequence, length) for member in self._members)

    def close(self) -> None:
        for member in self._members:
            member.close()
