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


@settings(max_examples=25, deadline=None)
@given(
    sequences=st.integers(1, 3),
    tokens=st.integers(1, 9),
    groups=st.integers(1, 3),
    shared=st.integers(1, 3),
    size=st.sampled_from([1, 4, 16, 24]),
)
def test_gated_delta_net(lab: Lab, sequences: int, tokens: int, groups: int, shared: int, size: int) -> None:
    heads = groups * shared
    query, key = (normal(seed, sequences, tokens, groups, size) / np.sqrt(size) for seed in (1, 2))
    value, state = normal(3, sequences, tokens, heads, size), normal(4, sequences, heads, size, size)
    decay = -np.abs(normal(5, sequences, tokens, heads))
    rate = 1 / (1 + np.exp(-normal(6, sequences, tokens, heads)))
    arrays = [each.astype(np.float32) for each in (query, key, value, decay, rate, state)]
    results, last = delta_rule(*(torch.from_numpy(each).double() for each in arrays))
    for index, expected in enumerate((results, last)):
        actual = lab.run(lambda q, *rest, part=index: q.gated_delta_net(*rest)[part].contiguous(), *arrays)
        lab.close_to(actual, expected.numpy(), 1e-5, exact=1e-6)


def delta_rule(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    decay: torch.Tensor,
    rate: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As in transformers, token by token; there a state has a column for each element of values."""
    shared, size = value.shape[2] // key.shape[2], value.shape[3]
    query, key = query.repeat(1, 1, shared, 1) / size**0.5, key.repeat(1, 1, shared, 1)
    memory, results = state.transpose(2, 3), torch.empty_like(value)
    for at in range(value.shape[1]):
        memory = memory * decay[:, at].exp()[..., None, None]
        known = (memory * key[:, at, :, :, None]).sum(dim=2)
        delta = (value[:, at] - known) * rate[:, at, :, None]
        memory = memory + key[:, at, :, :, None] * delta[:, :, None, :]
        results[:, at] = (memory * query[:, at, :, :, None]).sum(dim=2)
    return results, memory.transpose(2, 3)
