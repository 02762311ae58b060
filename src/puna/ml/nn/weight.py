"""Weights: what a layer needs from the model file, declared before the file is read."""

from collections.abc import Callable, Sequence

from puna.errors import WeightError
from puna.ml.tensor import Tensor

Shape = tuple[int | None, ...]

Watcher = Callable[[Tensor, Tensor | None], None]
"""Takes what a weight is to be multiplied with, and, for experts, which of them each token uses."""

Addition = Callable[[Tensor, Tensor | None], Tensor]
"""Makes of the same operands what is added to a product."""


class Weight:
    """One tensor of the model file, declared by name and shape; `bind` fills it.

    Attributes:
        names: the tensor's name below the scopes of the modules around it, and the other names that files
            give it, in order of preference.
        shape: expected sizes, slowest axis first; None matches any size.
        optional: a file may lack it.
        rows: it is a table looked up row by row, see `Backend.get`.
        maybe: the tensor, or None before binding and where the file has none.
        watcher: told of each product with the weight when a graph is made of it, if there is one.
        adapters: what is added to its products in the graph that is being made.
    """

    __slots__ = ("adapters", "maybe", "names", "optional", "rows", "shape", "watcher")

    def __init__(self, names: str, shape: Shape, *, optional: bool = False, rows: bool = False) -> None:
        """Declares a weight; alternative names are separated by "|"."""
        self.names = tuple(names.split("|"))
        self.shape = shape
        self.optional = optional
        self.rows = rows
        self.maybe: Tensor | None = None
        self.watcher: Watcher | None = None
        self.adapters: tuple[Addition, ...] = ()

    @property
    def tensor(self) -> Tensor:
        """The tensor. Raises WeightError before binding and where the file has none."""
        if self.maybe is None:
            raise WeightError(f"the weight {self.names[0]} is used but was not bound to a file that has it")
        return self.maybe

    def tell(self, x: Tensor, ids: Tensor | None = None) -> None:
        """Tell the watcher that the weight is to be multiplied with `x`."""
        if self.watcher is not None:
            self.watcher(x, ids)

    def adapted(self, product: Tensor, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """A product with the weight, and what adapters add to it.

        Args:
            product: the weight's own, (…, outputs).
            x: what it was multiplied with, or the rows of a table that were looked up.
            ids: the experts.
        """
        for addition in self.adapters:
            product = product + addition(x, ids)
        return product


class WeightGroup:
    """Weights with equal rows that are multiplied with the same vectors.

    Attributes:
        weights: the members, none of them optional.
        fused: one tensor with the rows of all, where the backend stores them together; then no member is
            bound. Otherwise None, and each is.
    """

    __slots__ = ("fused", "weights")

    def __init__(self, weights: Sequence[Weight]) -> None:
        self.weights = tuple(weights)
        self.fused: Tensor | None = None


def suffixed(names: str, suffix: str) -> str:
    """`suffix` put behind each of the names that "|" separates."""
    return "|".join(f"{name}.{suffix}" for name in names.split("|"))
