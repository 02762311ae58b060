"""Feed-forward networks: of one piece, and a mixture of which each token uses some."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from puna.ml.nn.layers import Bias, Experts, FusedProjections, Linear, Projections
from puna.ml.nn.module import Module
from puna.ml.nn.weight import Weight
from puna.ml.tensor import Tensor

Gate = Callable[[Tensor, Tensor], Tensor]

# Makes of the smallest difference of two scores more than any score.
_FAR = 1e30


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up"""
    return gate.swiglu(up)


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate) * up"""
    return gate.geglu(up)


class FeedForward(Module):
    """act(W_gate x) * W_up x, back through W_down; Shazeer, arXiv:2002.05202."""

    def __init__(
        self,
        hidden: int,
        width: int,
        *,
        suffix: str = "",
        act: Gate = swiglu,
        bias: Bias = "optional",
        fused: bool = False,
    ) -> None:
        """Declares the matrices.

        Args:
            suffix: stands behind their names.
            fused: the file has one, named "up", with the rows of W_gate and W_up.
        """
        self.act = act
        self.gate_up = (
            FusedProjections(f"ffn_up{suffix}", hidden, (width, width), bias=bias)
            if fused
            else Projections((f"ffn_gate{suffix}", f"ffn_up{suffix}"), hidden, (width, width), bias=bias)
        )
        self.down = Linear(f"ffn_down{suffix}", width, hidden, bias=bias)

    def __call__(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x)
        return self.down(self.act(gate, up))


class PlainFeedForward(Module):
    """activation(W_up x), back through W_down; Vaswani et al., arXiv:1706.03762."""

    def __init__(
        self, hidden: int, width: int, activation: Callable[[Tensor], Tensor], *, bias: Bias = "optional"
    ) -> None:
        self.activation = activation
        self.up = Linear("ffn_up", hidden, width, bias=bias)
        self.down = Linear("ffn_down", width, hidden, bias=bias)

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class Scores(Enum):
    """What the router's logits become; numbers as in the key `expert_gating_func`."""

    SOFTMAX = 1
    SIGMOID = 2
    SOFTMAX_OF_CHOSEN = 3


@dataclass(frozen=True, slots=True)
class Routing:
    """Which experts a token gets, and what each counts.

    Attributes:
        experts: how many there are.
        used: how many a token gets, those with the highest scores.
        scores: how scores are made of the router's logits.
        normalise: whether the scores of a token's experts are divided by their sum.
        scale: what they are then multiplied with.
        groups: the experts are in so many groups of the same size.
        groups_used: a token's experts are of so many groups, those with the highest scores.
    """

    experts: int
    used: int
    scores: Scores = Scores.SOFTMAX
    normalise: bool = True
    scale: float = 1.0
    groups: int = 1
    groups_used: int = 1


class MixtureOfExperts(Module):
    """The sum of what a token's experts answer, weighted by the router; Shazeer et al., arXiv:1701.06538."""

    def __init__(
        self,
        routing: Routing,
        hidden: int,
        width: int,
        *,
        act: Gate = swiglu,
        bias: Bias = False,
        weigh_inputs: bool = False,
    ) -> None:
        """Declares router and experts.

        Args:
            weigh_inputs: weights multiply what experts are asked, not what they answer (Llama 4).
        """
        self.routing, self.act, self.weigh_inputs = routing, act, weigh_inputs
        count = routing.experts
        self.router = Linear("ffn_gate_inp", hidden, count, bias=bias)
        # Added to the scores for the choice only; Wang et al., arXiv:2408.15664.
        self.correction = Weight("exp_probs_b.bias|exp_probs_b", (count,), optional=True)
        self.gate = Experts("ffn_gate_exps", count, hidden, width, bias=bias)
        self.up = Experts("ffn_up_exps", count, hidden, width, bias=bias)
        self.down = Experts("ffn_down_exps", count, width, hidden, bias=bias)

    def __call__(self, x: Tensor) -> Tensor:
        """x (tokens, hidden) → (tokens, hidden)."""
        ids, weights = self._route(x)
        tokens, hidden = x.shape
        each = x.reshape(tokens, 1, hidden)
        if self.weigh_inputs:
            each = each.repeat(1, self.routing.used) * weights
        answers = self.down(self.act(self.gate(each, ids), self.up(each, ids)), ids)
        return _sum_of_middle(answers if self.weigh_inputs else answers * weights)

    def _route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The experts' numbers, I32 (tokens, used), and their weights, F32 (tokens, used, 1)."""
        tokens, routing = x.dim(0), self.routing
        scores = self._scores(self.router(x))
        ids = self._preferred(scores).top_k(routing.used)
        weights = scores.reshape(tokens, routing.experts, 1).rows(ids).reshape(tokens, routing.used)
        if routing.scores is Scores.SOFTMAX_OF_CHOSEN:
            weights = weights.softmax()
        if routing.normalise:
            # Sigmoids may all be zero.
            weights = weights / weights.sum_rows().scale(1.0, 1e-20)
        return ids, weights.scale(routing.scale).reshape(tokens, routing.used, 1)

    def _scores(self, logits: Tensor) -> Tensor:
        match self.routing.scores:
            case Scores.SOFTMAX:
                return logits.softmax()
            case Scores.SIGMOID:
                return logits.sigmoid()
            case Scores.SOFTMAX_OF_CHOSEN:
                return logits

    def _preferred(self, scores: Tensor) -> Tensor:
        """What the choice goes by."""
        if self.correction.maybe is not None:
            scores = scores + self.correction.maybe
        return scores if self.routing.groups_used == self.routing.groups else self._limited(scores)

    def _limited(self, scores: Tensor) -> Tensor:
        """The scores, far below zero in groups that are not used.

        A group's score is that of its best expert (DeepSeek-AI, arXiv:2405.04434), or, where scores are
        corrected, the sum of the best two (arXiv:2412.19437).
        """
        tokens, groups = scores.dim(0), self.routing.groups
        size = self.routing.experts // groups
        each = scores.reshape(tokens * groups, size)
        best = each.top_k(1 if self.correction.maybe is None else 2)
        of_groups = each.reshape(tokens * groups, size, 1).rows(best).reshape(tokens * groups, best.dim(1))
        totals = of_groups.sum_rows().reshape(tokens, groups)
        used = totals.top_k(self.routing.groups_used)
        ranked = totals.reshape(tokens, groups, 1).rows(used).reshape(tokens, self.routing.groups_used)
        lowest = ranked.slice(-1, self.routing.groups_used - 1, self.routing.groups_used)
        penalty = (totals - lowest).clamp(-math.inf, 0.0).scale(_FAR)
        grouped = scores.reshape(tokens, groups, size) + penalty.reshape(tokens, groups, 1)
        return grouped.reshape(tokens, self.routing.experts)


class SharedExpert(Module):
    """A feed-forward network that every token uses, weighted by a sigmoid of its own."""

    def __init__(self, hidden: int, width: int) -> None:
        self.feed_forward = FeedForward(hidden, width, suffix="_shexp", bias=False)
        self.weight = Weight("ffn_gate_inp_shexp.weight", (hidden,))

    def __call__(self, x: Tensor) -> Tensor:
        share = (x * self.weight.tensor).sum_rows().sigmoid()
        return self.feed_forward(x) * share


def _sum_of_middle(x: Tensor) -> Tensor:
    """(tokens, used, width) → (tokens, width)."""
    tokens, used, width = x.shape
    parts = [x.view(index * x.stride(1), (tokens, width), (x.stride(0),)) for index in range(used)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
