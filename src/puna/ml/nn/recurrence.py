"""Layers that carry a state from token to token, as functions of tensors; history is handed in."""

from puna.ml.nn.history import LayerHistory
from puna.ml.tensor import Tensor


def causal_convolution(x: Tensor, kernel: Tensor, history: LayerHistory) -> Tensor:
    """Each channel's sum of its values at a token and those before it, weighted by a kernel of its own.

    Args:
        x: F32 (tokens, channels).
        kernel: F32 (channels, taps), the tap of the token itself last; 2 taps or more.
        history: carries the last taps - 1 values.

    Returns:
        F32 (tokens, channels).
    """
    channels, taps = kernel.shape

    def advance(state: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        seen, tokens = state.concat(new, 1), new.dim(1)
        result = seen.permute(0, 2, 1).contiguous().ssm_conv(kernel)
        return result, seen.slice(1, tokens, tokens + taps - 1)

    return history.carry("convolution", (taps - 1, channels), (x,), advance)


def gated_delta_rule(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, rate: Tensor, history: LayerHistory
) -> Tensor:
    """What each head's memory answers to queries, while keys and values are written into it.

    Args:
        query: F32 (tokens, key heads, d).
        key: the same.
        value: F32 (tokens, heads, d).
        decay: F32 (tokens, heads), see `Tensor.gated_delta_net`.
        rate: the same.
        history: carries the memories on.

    Returns:
        F32 (tokens, heads, d).
    """
    _, heads, size = value.shape

    def advance(
        state: Tensor, query: Tensor, key: Tensor, value: Tensor, decay: Tensor, rate: Tensor
    ) -> tuple[Tensor, Tensor]:
        return query.gated_delta_net(key, value, decay, rate, state)

    return history.carry("memory", (heads, size, size), (query, key, value, decay, rate), advance)
