"""Weights: what a layer needs from the model file, declared before the file is read."""

from collections.abc import Sequence

from puna.errors import WeightError
from puna.ml.tensor import Tensor

Shape = tuple[int | None, ...]


class Weight:
    """One tensor of the model file, declared by name and shape; `bind` fills it.

    Attributes:
        names: the tensor's name below the scopes of the modules around it, and the other names that files
            give it, in order of preference.
        shape: expected sizes, slowest axis first; None matches any size.
        optional: a file may lack it.
        rows: it is a table looked up row by row, see `Backend.get`.
        maybe: the tensor, or None before binding and where the file has none.
    """

    __slots__ = ("maybe", "names", "optional", "rows", "shape")

    def __init__(self, names: str, shape: Shape, *, optional: bool = False, rows: bool = False) -> None:
        """Declares a weight; alternative names are separated by "|"."""
        self.names = tuple(names.split("|"))
        self.shape = shape
        self.optional = optional
        self.rows = rows
        self.maybe: Tensor | None = None

    @property
    def tensor(self) -> Tensor:
        """The tensor. Raises WeightError before binding and where the file has none."""
        if self.maybe is None:
            raise WeightError(f"the weight {self.names[0]} is used but was not bound to a file that has it")
        return self.maybe


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
