"""Dump: a tensor as text, for looking at it while debugging."""

import math
from dataclasses import dataclass

from puna.ml.array import Array
from puna.ml.context import Context
from puna.ml.dtype import DType
from puna.ml.tensor import Tensor

_NOT_FINITE = {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}
_AS_FLOATS = (DType.F32, DType.F16, DType.Q8_0, DType.Q4_0)


@dataclass(frozen=True, slots=True)
class DumpOptions:
    """How a tensor is printed.

    Attributes:
        precision: decimals of floating-point elements.
        threshold: with at most this many elements, all are printed.
        edge_items: otherwise, how many at the beginning and the end of each axis.
    """

    precision: int = 4
    threshold: int = 1000
    edge_items: int = 3


def dump(context: Context, tensor: Tensor, options: DumpOptions | None = None) -> str:
    """The elements of `tensor` in nested brackets, slowest axis outermost.

    Computes the tensor first if it is a result that has not been computed. Types other than F32, F16,
    Q8_0, Q4_0 and I32 give `<unsupported>`.
    """
    options = options or DumpOptions()
    if tensor.dtype in _AS_FLOATS:
        values: Array = _read(context, tensor, floats=True)
        form = f".{options.precision}f"
    elif tensor.dtype is DType.I32:
        values, form = _read(context, tensor, floats=False), "d"
    else:
        return "<unsupported>"
    items = values.size if values.size <= options.threshold else options.edge_items
    return _block(values, items, form, rank=values.ndim)


def _read(context: Context, tensor: Tensor, *, floats: bool) -> Array:
    if not tensor.readable():
        context.forward(tensor).compute(tensor)
    return tensor.floats() if floats else tensor.array()


def _block(values: Array, items: int, form: str, rank: int) -> str:
    """One axis in brackets; the separators reproduce the original's line breaks and indentation."""
    length, inner = len(values), values.ndim > 1
    line_break = "\n" * (values.ndim - 1) + " " * (rank - values.ndim + 1)
    parts = ["["]
    index = 0
    while index < length:
        if items <= index < length - items:
            parts.append("..., ")
            if inner:
                parts.append(line_break)
            index = length - items
            continue
        last = index == length - 1
        if inner:
            parts.append(_block(values[index], items, form, rank))
            parts.append("" if last else "," + line_break)
        else:
            parts.append(_element(values[index], form))
            parts.append("" if last else ", ")
        index += 1
    parts.append("]")
    return "".join(parts)


def _element(value: float, form: str) -> str:
    text = format(value, form) if math.isfinite(value) else _NOT_FINITE[format(value, "f")]
    return text if text.startswith("-") else f" {text}"
