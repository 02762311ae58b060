"""What a model's matrices are multiplied with: sums of squares, column by column, as texts go through it.

A column that meets large numbers matters more; quantizers take that into account. The sums are those that
llama.cpp's `llama-imatrix` makes (tools/imatrix).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from puna.engine.evaluator import Batch, Evaluator
from puna.errors import InvalidOption
from puna.ml import DType, Tensor
from puna.ml.array import Floats
from puna.ml.nn import Module, Weight, declared
from puna.models.base import Encoder, Model, Step

_SEQUENCE: Final = 0
_BUDGET: Final = 256 << 20
"""Bytes of the vectors that are looked at together."""

Doubles = NDArray[np.float64]


@dataclass(slots=True)
class Seen:
    """What a matrix has seen, or the matrices of a layer's experts.

    Attributes:
        squares: F64 (matrices, columns), sums of squares.
        counts: F64 (matrices,), how many vectors were summed.
    """

    squares: Doubles
    counts: Doubles


@dataclass(frozen=True, slots=True)
class _Product:
    """Vectors on their way into matrices, as tensors of a graph.

    Attributes:
        weights: names of matrices that are all multiplied with the same vectors.
        x: F32 (tokens, columns), or (tokens, 1 or used, columns) for experts.
        ids: I32 (tokens, used), the experts; None for a matrix that all tokens meet.
    """

    weights: list[str]
    x: Tensor
    ids: Tensor | None

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers of one token: in x, and in ids."""
        x, ids = self.x, self.ids
        return math.prod(x.shape[1:]), 0 if ids is None else ids.dim(1)


class Activations:
    """Sums up what the matrices within a model's layers are multiplied with. A context manager.

    Attributes:
        seen: by the name of the matrix in the file.
    """

    def __init__(
        self,
        model: Model,
        names: Collection[str],
        new_evaluator: Callable[[Callable[[Step], Tensor]], Evaluator],
        most: int,
    ) -> None:
        """Prepares; nothing is evaluated yet.

        Args:
            names: of the file's tensors.
            new_evaluator: makes what evaluates something of the model, with room for one text.
            most: tokens that it evaluates at once.
        """
        self.seen: dict[str, Seen] = {}
        self._model = model
        self._products: dict[tuple[int, int], _Product] = {}
        self._matrices = {name: weight for name, weight in _matrices(model) if name in names}
        for name, weight in self._matrices.items():
            weight.watcher = self._watcher(name)
        widths = sum(weight.shape[-1] or 0 for weight in self._matrices.values())
        fitting = max(16, _BUDGET // max(1, 4 * widths))
        # An encoder's tokens see those before and after them, so its texts stay whole.
        self._most = most if isinstance(model, Encoder) else min(most, fitting)
        self._evaluator = new_evaluator(self._compute)

    def add(self, tokens: Sequence[int]) -> None:
        """Evaluate a text of its own and add what its tokens bring.

        Raises:
            InvalidOption: the model has no matrices to watch.
            PunaError: the computation fails; then `seen` has some of the text.
        """
        for start in range(0, len(tokens), self._most):
            part = tokens[start : start + self._most]
            rows = self._evaluator.evaluate(Batch.of(part, start, _SEQUENCE, all_outputs=True))
            self._add(rows)
        self._evaluator.cache.remove(_SEQUENCE, 0)

    def close(self) -> None:
        """Look no longer, and give the memory back."""
        for weight in self._matrices.values():
            weight.watcher = None
        self._evaluator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _watcher(self, name: str) -> Callable[[Tensor, Tensor | None], None]:
        def watch(x: Tensor, ids: Tensor | None) -> None:
            key = (id(x), id(ids))
            self._products.setdefault(key, _Product([], x, ids)).weights.append(name)

        return watch

    def _compute(self, step: Step) -> Tensor:
        """All vectors side by side, F32 (tokens, …): what leads to them is computed, and nothing else."""
        self._products.clear()
        self._model.hidden(step)
        if not self._products:
            raise InvalidOption("the model has no matrices whose vectors could be looked at")
        return _joined([part for product in self._products.values() for part in _flat(product)])

    def _add(self, rows: Floats) -> None:
        start = 0
        for product in self._products.values():
            (width, chosen), tokens = product.widths, len(rows)
            x = rows[:, start : start + width].reshape(tokens, -1, product.x.dim(-1))
            ids = rows[:, start + width : start + width + chosen].astype(np.intp)
            start += width + chosen
            for name in product.weights:
                matrices = self._matrices[name].shape[0] if chosen else 1
                self._sums(name, matrices or 1, x.shape[-1])
            self._add_product([self.seen[name] for name in product.weights], x, ids)

    def _sums(self, name: str, matrices: int, columns: int) -> None:
        if name not in self.seen:
            self.seen[name] = Seen(np.zeros((matrices, columns)), np.zeros(matrices))

    def _add_product(self, seen: Sequence[Seen], x: Floats, ids: NDArray[np.intp]) -> None:
        """Adds x (tokens, 1 or used, columns) to matrices `ids` (tokens, used), or to the only one."""
        for matrix, vectors in _by_matrix(x, ids):
            squares = np.einsum("tc,tc->c", vectors, vectors, dtype=np.float64)
            for sums in seen:
                sums.squares[matrix] += squares
                sums.counts[matrix] += len(vectors)


def _by_matrix(x: Floats, ids: NDArray[np.intp]) -> Iterator[tuple[int, Floats]]:
    """The vectors of each matrix that has some, (vectors, columns)."""
    if not ids.size:
        yield 0, x.reshape(-1, x.shape[-1])
        return
    every = np.broadcast_to(x, (*ids.shape, x.shape[-1]))
    for matrix in np.unique(ids):
        yield int(matrix), every[ids == matrix]


def _matrices(model: Module) -> Iterator[tuple[str, Weight]]:
    """The matrices within layers, by every name that a file may give them."""
    for scope, part in declared(model):
        for weight in (part,) if isinstance(part, Weight) else part.weights:
            if scope.startswith("blk.") and len(weight.shape) > 1:
                yield from ((scope + name, weight) for name in weight.names if name.endswith("weight"))


def _flat(product: _Product) -> Iterator[Tensor]:
    """The numbers of each token in one row, F32."""
    tokens = product.x.dim(0)
    yield product.x.contiguous().reshape(tokens, product.widths[0])
    if product.ids is not None:
        yield product.ids.contiguous().cast(DType.F32)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The parts side by side; in pairs, so that none is copied more often than there are doublings."""
    while len(parts) > 1:
        pairs = [first.concat(second, 1) for first, second in zip(parts[::2], parts[1::2], strict=False)]
        parts = [*pairs, *parts[len(pairs) * 2 :]]
    return parts[0]
