"""Windows over images against torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from puna.ml.array import Array

if TYPE_CHECKING:
    from tests.ml.conftest import Lab

PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))
PADDING = st.tuples(st.integers(0, 2), st.integers(0, 2))


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(
    leading=st.lists(st.integers(1, 3), max_size=2),
    sides=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 1),
)
def test_avg_pool_2d(
    lab: Lab, leading: list[int], sides: tuple[int, int], kernel: int, stride: int, padding: int
) -> None:
    assume(min(sides) + 2 * padding >= kernel and padding <= kernel // 2)
    values = normal(1, *leading, *sides)
    images = torch.from_numpy(values.astype(np.float64).reshape(1, -1, *sides))
    expected = torch.nn.functional.avg_pool2d(images, kernel, stride, padding).numpy()
    actual = lab.run(lambda x: x.avg_pool_2d(kernel, stride, padding), values)
    lab.close_to(actual, expected.reshape(actual.shape), 1e-5)


@settings(max_examples=25, deadline=None)
@given(
    counts=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4)),
    sides=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=PAIR,
    stride=PAIR,
    padding=PADDING,
    dilation=PAIR,
)
def test_convolutions(
    lab: Lab,
    counts: tuple[int, int, int],
    sides: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    """The pairs are (along width, along height) here and (height, width) in torch."""
    number, channels, filters = counts
    spans = [
        side + 2 * p - d * (k - 1) - 1 for side, k, p, d in zip(sides, kernel, padding, dilation, strict=True)
    ]
    assume(min(spans) >= 0)
    images = normal(1, number, channels, sides[1], sides[0])
    weights = normal(2, filters, channels, kernel[1], kernel[0])
    own = (stride, padding, dilation)
    actual = lab.run(lambda w, x: w.conv_2d(x, *own), weights, images)
    wide = torch.from_numpy(images.astype(np.float64))
    along, edges, spread = ((pair[1], pair[0]) for pair in own)
    filter_ = torch.from_numpy(weights.astype(np.float64))
    expected = torch.nn.functional.conv2d(wide, filter_, None, along, edges, spread)
    lab.close_to(actual, expected.numpy(), 1e-5)
    columns = lab.run(lambda w, x: w.im2col(x, *own), weights, images)
    unfolded = torch.nn.functional.unfold(wide, kernel[::-1], spread, edges, along).numpy()
    lab.close_to(columns.reshape(number, -1, columns.shape[-1]), unfolded.transpose(0, 2, 1), 1e-6)
    assert columns.shape[1:3] == expected.shape[2:]


def test_convolution_with_a_half_precision_kernel(lab: Lab) -> None:
    images, weights = normal(1, 1, 3, 12, 10), normal(2, 4, 3, 3, 3).astype(np.float16)
    actual = lab.run(lambda w, x: w.conv_2d(x, (2, 1), (1, 1), (1, 1)), weights, images)
    wide = torch.from_numpy(weights.astype(np.float64))
    expected = torch.nn.functional.conv2d(torch.from_numpy(images.astype(np.float64)), wide, None, (1, 2), 1)
    lab.close_to(actual, expected.numpy(), 2e-3)


@pytest.mark.parametrize("axes", [(0, 3, 1, 2), (2, 0, 1, 3)])
def test_convolution_of_permuted_images(lab: Lab, axes: tuple[int, ...]) -> None:
    images, weights = normal(1, 1, 3, 8, 8), normal(2, 4, 3, 2, 2)
    lying = np.ascontiguousarray(images.transpose(np.argsort(axes)))
    own = ((2, 2), (0, 0), (1, 1))
    actual = lab.run(lambda w, x: w.conv_2d(x.permute(*axes), *own), weights, lying)
    np.testing.assert_allclose(actual, lab.run(lambda w, x: w.conv_2d(x, *own), weights, images), rtol=1e-5)
