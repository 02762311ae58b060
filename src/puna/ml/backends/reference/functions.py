"""The mathematics of the operations: arrays in, arrays out, float64."""

import math

import numpy as np

from puna.errors import BackendError
from puna.ml.array import Array
from puna.ml.backends.reference import windows

_erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x)"""
    result: Array = 1 / (1 + np.exp(-x))
    return result


def gelu(x: Array) -> Array:
    """x * Phi(x), tanh approximation."""
    result: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return result


def gelu_erf(x: Array) -> Array:
    """x * Phi(x)"""
    result: Array = 0.5 * x * (1 + _erf(x / math.sqrt(2)))
    return result


def repeated(small: Array, shape: tuple[int, ...]) -> Array:
    """`small` tiled to fill `shape`; leading axes that `shape` lacks have size 1."""
    if small.ndim > len(shape):
        small = small.reshape(small.shape[-len(shape) :])
    sizes = (1,) * (len(shape) - small.ndim) + small.shape
    counts = [large // size for large, size in zip(shape, sizes, strict=True)]
    return np.tile(small.reshape(sizes), counts)


def mul_mat(matrix: Array, vectors: Array) -> Array:
    """vectors @ matrix^T; each matrix serves as many consecutive slices of `vectors` as it has to."""
    if vectors.ndim == 1:
        return np.atleast_2d(matrix) @ vectors
    matrix = np.atleast_2d(matrix)
    for axis, size in enumerate(vectors.shape[:-2]):
        missing = vectors.ndim - matrix.ndim
        if missing <= axis:
            matrix = matrix.repeat(size // matrix.shape[axis - missing], axis - missing)
    return vectors @ matrix.swapaxes(-1, -2)


def mul_mat_id(experts: Array, vectors: Array, ids: Array) -> Array:
    """Row t, u: experts[ids[t, u]] @ vectors[t, u], the vectors repeated along u."""
    chosen = experts[checked(ids, len(experts))]
    every = np.tile(vectors, (1, ids.shape[1] // vectors.shape[1], 1))
    result: Array = np.einsum("tumk,tuk->tum", chosen, every)
    return result


def softmax(scores: Array, mask: Array | None, sinks: Array | None) -> Array:
    """Over the last axis; a sink takes part in the sum and is dropped."""
    if mask is not None:
        scores = scores + mask.reshape(mask.shape[-2:])
    top = scores.max(axis=-1, keepdims=True)
    if sinks is None:
        powers: Array = np.exp(scores - top)
        return powers / total(powers)
    column = sinks.reshape(-1, 1, 1)
    top = np.maximum(top, column)
    powers = np.exp(scores - top)
    shares: Array = powers / (total(powers) + np.exp(column - top))
    return shares


def norm(x: Array, eps: float) -> Array:
    """Mean 0 and variance 1 along the last axis."""
    result: Array = (x - mean(x)) / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    return result


def total(x: Array) -> Array:
    """Sums along the last axis."""
    result: Array = x.sum(axis=-1, keepdims=True)
    return result


def mean(x: Array) -> Array:
    """Means along the last axis."""
    result: Array = x.mean(axis=-1, keepdims=True)
    return result


def argsort(x: Array) -> Array:
    """Positions that sort the last axis ascending."""
    return np.argsort(x, axis=-1, kind="stable")


def checked(ids: Array, limit: int) -> Array:
    """Row numbers. Raises BackendError unless all are from 0 to below `limit`."""
    if ids.min() < 0 or ids.max() >= limit:
        raise BackendError(f"row numbers from {ids.min()} to {ids.max()} leave a table of {limit} rows")
    return ids


def rows(table: Array, ids: Array) -> Array:
    """Rows by number, slice by slice of the leading axes."""
    return np.take_along_axis(table, checked(ids, table.shape[-2])[..., None].astype(np.int64), axis=-2)


def converted(values: Array, to_integers: bool) -> Array:
    """Fractions are cut off when numbers become integers."""
    return np.trunc(values).astype(np.int64) if to_integers else values


def ssm_conv(x: Array, kernel: Array) -> Array:
    """(N, C, taps - 1 + T) and (C, taps): each channel's sums over windows, (N, T, C)."""
    seen = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[1], axis=-1)
    result: Array = np.einsum("nctk,ck->ntc", seen, kernel)
    return result


def gated_delta_net(query: Array, key: Array, value: Array, decay: Array, rate: Array, state: Array) -> Array:
    """Results of all tokens, then the states after the last, in rows of heads * d."""
    tokens, heads, size = value.shape[1:]
    query, key = (np.tile(each, (1, 1, heads // each.shape[2], 1)) for each in (query, key))
    results = np.empty_like(value)
    for at in range(tokens):
        state = state * np.exp(decay[:, at])[..., None, None]
        known = np.einsum("nhvk,nhk->nhv", state, key[:, at])
        correction = rate[:, at, :, None] * (value[:, at] - known)
        state = state + correction[..., None] * key[:, at, :, None, :]
        results[:, at] = np.einsum("nhvk,nhk->nhv", state, query[:, at]) / math.sqrt(size)
    both: Array = np.concatenate((results.reshape(-1), state.reshape(-1))).reshape(-1, heads * size)
    return both


def columns(
    kernel: tuple[int, ...],
    pixels: Array,
    stride: windows.Pair,
    padding: windows.Pair,
    dilation: windows.Pair,
) -> Array:
    """One row per window that a kernel of this shape (O, C, KH, KW) meets: (N, OH, OW, C * KH * KW)."""
    patches = windows.patches(pixels, (kernel[2], kernel[3]), stride, padding, dilation)
    return patches.reshape(*patches.shape[:3], -1)


def convolve(
    kernel: Array, pixels: Array, stride: windows.Pair, padding: windows.Pair, dilation: windows.Pair
) -> Array:
    """Sums over channels and windows: (N, O, OH, OW)."""
    patches = windows.patches(pixels, (kernel.shape[2], kernel.shape[3]), stride, padding, dilation)
    result: Array = np.einsum("nyxchw,ochw->noyx", patches, kernel)
    return result
