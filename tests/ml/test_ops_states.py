"""What layers that carry states compute, against torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.ml.array import Array

if TYPE_CHECKING:
    from tests.ml.conftest import Lab


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(
    sequences=st.integers(1, 4),
    channels=st.integers(1, 40),
    tokens=st.integers(1, 20),
    taps=st.integers(1, 5),
)
def test_ssm_conv(lab: Lab, sequences: int, channels: int, tokens: int, taps: int) -> None:
    seen, kernel = normal(1, sequences, channels, taps - 1 + tokens), normal(2, channels, taps)
    windows = torch.nn.functional.conv1d(
        torch.from_numpy(seen).double(), torch.from_numpy(kernel).double()[:, None], groups=channels
    )
    actual = lab.run(lambda x, weights: x.ssm_conv(weights), seen, kernel)
    lab.close_to(actual, windows.permute(0, 2, 1).numpy(), 1e-5)
    # Of a view, too, whose channels do not lie side by side.
    turned = np.ascontiguousarray(seen.transpose(0, 2, 1))
    again = lab.run(lambda x, weights: x.permute(0, 2, 1).ssm_conv(weights), turned, kernel)
    np.testing.assert_array_equal(again, actual)
