"""What the engine asks of whatever drafts tokens."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Protocol


class Drafter(Protocol):
    """Drafts how one sequence may go on."""

    def draft(self, tokens: array[int], pending: int, most: int) -> list[int]:
        """Tokens that may come next; none where drafting does not pay.

        Args:
            tokens: of the sequence; the same array, with more behind, unless some have been dropped.
            pending: how many of them are evaluated together with the draft, at least 1.
            most: how many tokens may be evaluated together, the draft included.
        """


def agreeing(chosen: Sequence[int], drafted: Sequence[int]) -> int:
    """With how many tokens both begin."""
    pairs = enumerate(zip(chosen, drafted, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(chosen), len(drafted)))
