"""Layers: the leaves of a model, each with its own weights.

Names are those in the model file without ".weight" and ".bias"; alternatives are separated by "|".
"""

from collections.abc import Sequence
from typing import Literal

from puna.ml.nn.module import Module
from puna.ml.nn.weight import Weight, WeightGroup, suffixed
from puna.ml.tensor import Tensor

Bias = bool | Literal["optional"]


class Linear(Module):
    """x W^T + b: vectors (…, inputs) → (…, outputs)."""

    def __init__(self, name: str, inputs: int | None, outputs: int | None, *, bias: Bias = False) -> None:
        """Declares W (outputs, inputs) and b (outputs,); None takes as many as the file has."""
        self.weight = Weight(suffixed(name, "weight"), (outputs, inputs))
        self.bias = _bias(name, (outputs,), bias)

    def __call__(self, x: Tensor) -> Tensor:
        self.weight.tell(x)
        return _plus(self.weight.adapted(self.weight.tensor.mul_mat(x), x), self.bias)


class Projections(Module):
    """Several linear layers of one input, computed as one product where the backend stores them together."""

    def __init__(
        self, names: Sequence[str], inputs: int, outputs: Sequence[int], *, bias: Bias = False
    ) -> None:
        """Declares one linear layer for each of `names`, with as many outputs as `outputs` says."""
        layers = tuple(zip(names, outputs, strict=True))
        self.outputs = tuple(outputs)
        self.weights = WeightGroup(
            [Weight(suffixed(name, "weight"), (rows, inputs)) for name, rows in layers]
        )
        self.biases = [_bias(name, (rows,), bias) for name, rows in layers]

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """One result (…, outputs) for each layer; they may be views whose rows do not lie side by side."""
        adapted = [
            weight.adapted(y, x) for weight, y in zip(self.weights.weights, self._products(x), strict=True)
        ]
        return tuple(_plus(y, bias) for y, bias in zip(adapted, self.biases, strict=True))

    def _products(self, x: Tensor) -> list[Tensor]:
        for weight in self.weights.weights:
            weight.tell(x)
        if self.weights.fused is None:
            return [weight.tensor.mul_mat(x) for weight in self.weights.weights]
        return self.weights.fused.mul_mat(x).chunk_sections(-1, *self.outputs)


class FusedProjections(Module):
    """Several linear layers of one input, of which the file has one matrix with the rows of all."""

    def __init__(self, name: str, inputs: int, outputs: Sequence[int], *, bias: Bias = False) -> None:
        """Declares the matrix; its first rows are those of the first layer."""
        self.outputs = tuple(outputs)
        self.linear = Linear(name, inputs, sum(outputs), bias=bias)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """One result (…, outputs) for each layer; they are views whose rows do not lie side by side."""
        return tuple(self.linear(x).chunk_sections(-1, *self.outputs))


class Embedding(Module):
    """A table (rows, width) of vectors: ids I32 (tokens,) → F32 (tokens, width)."""

    def __init__(self, name: str, rows: int | None, width: int) -> None:
        """Declares the table; `rows` None takes as many as the file has."""
        self.weight = Weight(suffixed(name, "weight"), (rows, width), rows=True)

    def __call__(self, ids: Tensor) -> Tensor:
        return self.weight.adapted(self.weight.tensor.rows(ids), ids)


class RMSNorm(Module):
    """x / sqrt(mean(x²) + eps) * weight over the last axis; Zhang and Sennrich, arXiv:1910.07467."""

    def __init__(self, name: str, width: int, eps: float) -> None:
        self.weight = Weight(suffixed(name, "weight"), (width,))
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return x.rms_norm(self.weight.tensor, self.eps)


class LayerNorm(Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis; Ba et al., arXiv:1607.06450."""

    def __init__(self, name: str, width: int, eps: float, *, bias: Bias = True) -> None:
        self.weight = Weight(suffixed(name, "weight"), (width,))
        self.bias = _bias(name, (width,), bias)
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return x.layer_norm(self.weight.tensor, None if self.bias is None else self.bias.maybe, self.eps)


class Experts(Module):
    """Linear layers of which each token uses a few: W (experts, outputs, inputs), b (experts, outputs)."""

    def __init__(self, name: str, experts: int, inputs: int, outputs: int, *, bias: Bias = False) -> None:
        self.weight = Weight(suffixed(name, "weight"), (experts, outputs, inputs))
        self.bias = _bias(name, (experts, outputs), bias)

    def __call__(self, x: Tensor, ids: Tensor) -> Tensor:
        """x (tokens, 1 or used, inputs), ids I32 (tokens, used) → F32 (tokens, used, outputs)."""
        self.weight.tell(x, ids)
        product = self.weight.adapted(self.weight.tensor.mul_mat_id(x, ids), x, ids)
        if self.bias is None or self.bias.maybe is None:
            return product
        return product.add_id(self.bias.maybe, ids)


def _bias(name: str, shape: tuple[int | None, ...], bias: Bias) -> Weight | None:
    return Weight(suffixed(name, "bias"), shape, optional=bias == "optional") if bias else None


def _plus(x: Tensor, bias: Weight | None) -> Tensor:
    return x if bias is None or bias.maybe is None else x + bias.maybe
