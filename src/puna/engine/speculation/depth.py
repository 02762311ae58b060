"""How much to draft: pure functions of how long drafts have been right, and of what batches cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# A draft is worth its risk only if it brings this much more than one token at a time would.
_WORTH = 1.05
# What is left of what was learnt, after each wrong token.
_MEMORY = 0.8

COSTS: Mapping[int, float] = {4: 3.0, 8: 5.0, 32: 15.0}
"""What batches of so many tokens cost, all their logits included, in steps of one token; ascending.

Measured on two cores, with the dearer of two small models, and a part of the graph's building added: where
there is more to compute with, and where weights are larger, batches cost less. The sizes are few, so that
graphs are used again.
"""

LARGEST = max(COSTS)


@dataclass(slots=True)
class Trust:
    """How far drafts can be trusted in one answer.

    Behind `agreement` tokens that were drafted rightly, the next one is taken to be wrong with probability
    hazard / (hazard + agreement): what has long been a copy goes on as one. The hazard is estimated from how
    many were wrong and how long drafts were right; what happened of late counts more.

    Attributes:
        wrong: how many tokens were wrong.
        exposure: the sum of 1 / agreement over all tokens.
    """

    wrong: float = 3.0
    exposure: float = 1.0

    @property
    def hazard(self) -> float:
        """At which agreement every second token is wrong."""
        return self.wrong / self.exposure

    def learn(self, agreement: int, right: bool) -> None:
        """Takes in how a token turned out that followed so many right ones, at least 1."""
        self.exposure += 1 / agreement
        if not right:
            self.wrong = self.wrong * _MEMORY + 1
            self.exposure *= _MEMORY


def batch_size(
    agreement: int, hazard: float, pending: int, most: int, costs: Mapping[int, float] = COSTS
) -> int:
    """Of how many tokens the next batch should be, so that it brings most for its cost; 0 for no draft.

    Args:
        agreement: how many tokens drafts have been right for, at least 1.
        hazard: see `Trust`.
        pending: tokens of the batch that are not drafted, at least 1.
        most: how many tokens it may have.
        costs: see `COSTS`.
    """
    best, best_rate = 0, _WORTH
    reached = expected = 1.0
    drafted = 0
    for size, cost in costs.items():
        if size > most:
            break
        while drafted < size - pending:
            reached *= (agreement + drafted) / (agreement + drafted + hazard)
            expected += reached
            drafted += 1
        if drafted and expected / cost > best_rate:
            best, best_rate = size, expected / cost
    return best
