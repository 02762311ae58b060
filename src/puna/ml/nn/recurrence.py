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
