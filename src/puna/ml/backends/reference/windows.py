"""Windows over images."""

import numpy as np

from puna.ml.array import Array

Pair = tuple[int, int]


def patches(images: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Array:
    """The windows of images (N, C, H, W): (N, OH, OW, C, KH, KW).

    `kernel` is (KH, KW); the other pairs are (along width, along height).
    """
    wide, high = padding
    padded = np.pad(images, ((0, 0), (0, 0), (high, high), (wide, wide)))
    spans = ((kernel[0] - 1) * dilation[1] + 1, (kernel[1] - 1) * dilation[0] + 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(2, 3))
    taken = windows[:, :, :: stride[1], :: stride[0], :: dilation[1], :: dilation[0]]
    return taken.transpose(0, 2, 3, 1, 4, 5)


def averages(values: Array, size: Pair, kernel: int, stride: int, padding: int) -> Array:
    """Means over square windows of the last two axes, `size` of them; what lies outside counts as zeros."""
    needed = [(n - 1) * stride + kernel for n in size]
    after = [max(0, n - padding - length) for n, length in zip(needed, values.shape[-2:], strict=True)]
    edges = [(0, 0)] * (values.ndim - 2) + [(padding, extra) for extra in after]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, edges), (kernel, kernel), axis=(-2, -1))
    strided = windows[..., ::stride, ::stride, :, :][..., : size[0], : size[1], :, :]
    means: Array = strided.mean(axis=(-2, -1))
    return means
