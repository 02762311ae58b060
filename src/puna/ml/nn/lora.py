"""Low-rank adapters beside a model's matrices: LoRA, Hu et al., arXiv:2106.09685.

A product W x becomes W x + scale · B (A x). The matrices of the model stay as they are, so that every vector
of a batch can have another scale.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from puna.errors import UnsupportedModel
from puna.ml.nn.layers import Embedding, Experts, Linear, Projections
from puna.ml.nn.module import Module
from puna.ml.nn.weight import Weight, WeightGroup
from puna.ml.tensor import Tensor


class Scales:
    """What is multiplied with the products of each token of a graph.

    Attributes:
        tokens: F32 (tokens, 1).
        outputs: I32 (outputs,), the rows that remain where a model keeps the wanted ones only.
    """

    def __init__(self, tokens: Tensor, outputs: Tensor) -> None:
        self.tokens, self.outputs = tokens, outputs
        self._made: dict[tuple[int, float], Tensor] = {}

    def of(self, rows: int, factor: float) -> Tensor:
        """Those of `rows` vectors, which are of all tokens or of the wanted ones, times the factor."""
        key = rows, factor
        if key not in self._made:
            every = rows == self.tokens.dim(0)
            self._made[key] = (self.tokens if every else self.tokens.rows(self.outputs)).scale(factor)
        return self._made[key]


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter has for one weight.

    Attributes:
        weight: of the model, (rows, columns), or (experts, rows, columns).
        first: A, (rank, columns) or (experts, rank, columns); for a table that is looked up (rows, rank).
        second: B, (rows, rank) or (experts, rows, rank); for a table (columns, rank).
        factor: what all products are multiplied with besides.
    """

    weight: Weight
    first: Tensor
    second: Tensor
    factor: float

    def product(self, x: Tensor, ids: Tensor | None, scales: Scales) -> Tensor:
        """What is added to the product with the weight; see `Weight.adapted` for the operands.

        Raises:
            UnsupportedModel: the model multiplies the weight with other vectors than one for each token.
        """
        axes = 1 if self.weight.rows else len(self.weight.shape)
        if len(x.shape) != axes or x.dim(0) not in (scales.tokens.dim(0), scales.outputs.dim(0)):
            raise UnsupportedModel(f"adapters cannot be applied to {self.weight.names[0]} of this model")
        scale = scales.of(x.dim(0), self.factor)
        # Vectors are scaled before they are multiplied: of zeros no product is infinite, whatever is in an
        # adapter that is for other tokens.
        if ids is not None:
            inner = self.first.mul_mat_id(x * scale.reshape(x.dim(0), 1, 1), ids)
            return self.second.mul_mat_id(inner, ids)
        if self.weight.rows:
            return self.second.mul_mat(self.first.rows(x) * scale)
        return self.second.mul_mat(self.first.mul_mat(x * scale))


@contextmanager
def adapting(adapters: Sequence[tuple[Sequence[LowRank], Scales]]) -> Iterator[None]:
    """Graphs that are made inside have these adapters, each with its scales."""
    touched = [part.weight for parts, _ in adapters for part in parts]
    try:
        for parts, scales in adapters:
            for part in parts:
                weight = part.weight
                weight.adapters = (*weight.adapters, partial(part.product, scales=scales))
        yield
    finally:
        for weight in touched:
            weight.adapters = ()


def adaptable(module: Module, outer: str = "") -> Iterator[tuple[str, Weight]]:
    """Every matrix below `module` that adapters can be applied to, with what stands before its name."""
    scope = f"{outer}{module.scope}." if module.scope else outer
    for part in module.parts():
        if isinstance(part, Module):
            yield from adaptable(part, scope)
        elif isinstance(module, Projections) and isinstance(part, WeightGroup):
            yield from ((scope, weight) for weight in part.weights)
        elif isinstance(module, Linear | Embedding | Experts) and part is module.weight:
            yield scope, part
