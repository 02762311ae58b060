"""Attention as a function of tensors; history is handed in."""

from puna.ml.nn.history import LayerHistory
from puna.ml.tensor import Tensor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    history: LayerHistory | None = None,
    *,
    sinks: Tensor | None = None,
    logit_softcap: float = 0.0,
) -> Tensor:
    """softmax(q k^T * scale + mask) v, head by head; Vaswani et al., arXiv:1706.03762.

    Args:
        query: F32 (tokens, heads, d_k).
        key: (tokens, kv_heads, d_k), kv_heads divides heads.
        value: (tokens, kv_heads, d_v).
        scale: usually 1 / sqrt(d_k).
        history: the layer's cache; without one every token sees exactly this batch.
        sinks: see `Tensor.softmax`.
        logit_softcap: see `Tensor.scaled_dot_product_attention`.

    Returns:
        F32 (tokens, heads * d_v).
    """
    mask = None
    if history is not None:
        key, value, mask = history.update(key, value)
    result = query.scaled_dot_product_attention(
        key, value, mask, scale, sinks=sinks, logit_softcap=logit_softcap
    )
    return merge_heads(result)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(tokens, heads * d) → (tokens, heads, d), without a copy even where the rows of x lie apart."""
    tokens, width = x.shape
    size = width // heads
    return x.view(0, (tokens, heads, size), (x.stride(0), size * x.stride(1)))


def merge_heads(x: Tensor) -> Tensor:
    """(tokens, heads, d) → (tokens, heads * d), without a copy where each token's heads lie side by side."""
    tokens, heads, size = x.shape
    if x.stride(1) != size * x.stride(2):
        return x.reshape(tokens, heads * size)
    return x.view(0, (tokens, heads * size), (x.stride(0),))
