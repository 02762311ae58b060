"""What the cache still holds of sequences that have ended, for prompts that begin alike."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from puna.engine.pictures import Placed, common_pictures

# Comparing goes on in larger and larger pieces, so that prompts which differ early cost nothing.
_FIRST_PIECE = 64


@dataclass(frozen=True, slots=True)
class Prefix:
    """Tokens that lie in the cache.

    Attributes:
        number: of the sequence that has them.
        tokens: ids, from position 0 on.
        scope: whose they are, and with which adapters they were computed.
        pictures: those that stand among them.
    """

    number: int
    tokens: array[int]
    scope: Hashable
    pictures: tuple[Placed, ...] = ()

    def common(self, other: Prefix) -> int:
        """How many tokens both begin with, pictures counting by their content."""
        length = common_length(self.tokens, other.tokens)
        return common_pictures(self.pictures, other.pictures, length)


class Prefixes:
    """The sequences that have ended and are kept, the one used longest ago first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, Prefix] = OrderedDict()

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, number: int) -> bool:
        return number in self._kept

    def keep(self, prefix: Prefix) -> None:
        """Takes one up, as the one used last."""
        self._kept[prefix.number] = prefix

    def used(self, number: int) -> None:
        """Makes this the one used last, if it is kept."""
        if number in self._kept:
            self._kept.move_to_end(number)

    def take(self, number: int) -> Prefix:
        """Gives one out of keeping."""
        return self._kept.pop(number)

    def alike(self, prefix: Prefix) -> Iterator[tuple[Prefix, int]]:
        """Those of the same scope, each with the number of tokens it has in common with this one."""
        for other in self:
            if other.scope == prefix.scope:
                yield other, other.common(prefix)

    def oldest(self) -> Prefix | None:
        """The one used longest ago."""
        return next(iter(self._kept.values()), None)


def common_length(left: array[int], right: array[int]) -> int:
    """How many tokens two sequences begin with in common."""
    end = min(len(left), len(right))
    if not end:
        return 0
    a, b = np.frombuffer(left, np.int32, end), np.frombuffer(right, np.int32, end)
    begin, size = 0, _FIRST_PIECE
    while begin < end:
        differs = a[begin : begin + size] != b[begin : begin + size]
        first = int(differs.argmax())
        if differs[first]:
            return begin + first
        begin, size = begin + size, size * 8
    return end


def longest(
    candidates: Iterable[Prefix], wanted: Prefix, resumable: Callable[[int, int], int]
) -> tuple[Prefix, int] | None:
    """Which of the candidates has most of what is wanted, and how much; None if none has any.

    At least the last token is left to evaluate: its logits are wanted.

    Args:
        resumable: from how many of its first tokens, at most so many, a sequence can go on, by its number.
    """
    best: tuple[Prefix, int] | None = None
    for candidate in candidates:
        if candidate.scope != wanted.scope:
            continue
        length = min(candidate.common(wanted), len(wanted.tokens) - 1)
        most = best[1] if best else 0
        if length > most and (length := resumable(candidate.number, length)) > most:
            best = candidate, length
    return best
