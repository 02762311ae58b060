"""Which tokens are evaluated together: a pure function of what the sequences need."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Need:
    """What one sequence waits for.

    Attributes:
        tokens: how many of its tokens are still to be evaluated, at least 1.
        prefilling: these are a prompt; otherwise the tokens that were chosen last.
    """

    tokens: int
    prefilling: bool


def plan(needs: Sequence[Need], budget: int) -> list[int]:
    """How many tokens of each sequence make up the next batch, at most `budget` in all.

    Answers that are under way go on first, in the order given. Prompts share what is left so that the
    shortest are done first and the others advance alike; a quarter of the budget is theirs in any case.
    """
    prompts = [index for index, need in enumerate(needs) if need.prefilling]
    left = budget - budget // 4 if prompts else budget
    counts = [0] * len(needs)
    for index, need in enumerate(needs):
        if not need.prefilling:
            counts[index] = min(need.tokens, left)
            left -= counts[index]
    shared = fair_shares([needs[index].tokens for index in prompts], budget - sum(counts))
    for index, count in zip(prompts, shared, strict=True):
        counts[index] = count
    return counts


def fair_shares(wanted: Sequence[int], budget: int) -> list[int]:
    """Shares of a budget: nobody gets more than wanted, and who wants more gets as much as anybody."""
    shares = [0] * len(wanted)
    smallest_first = sorted(range(len(wanted)), key=lambda index: wanted[index])
    for position, index in enumerate(smallest_first):
        shares[index] = min(wanted[index], budget // (len(wanted) - position))
        budget -= shares[index]
    return shares


def undivided(counts: Sequence[int], pieces: Sequence[int], budget: int) -> list[int]:
    """The counts of a batch, such that what cannot be divided is in it as a whole, or not at all.

    Args:
        pieces: for each sequence how many of its next tokens cannot be divided; at most the budget.
    """
    shares = []
    for count, piece in zip(counts, pieces, strict=True):
        count = max(count, piece) if count else 0
        if count > budget:
            count = budget if budget >= piece else 0
        shares.append(count)
        budget -= count
    return shares
