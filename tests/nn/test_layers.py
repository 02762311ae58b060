"""Layers against their formulas in NumPy."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tests.nn.files import Floats, bound, compute, random, write

from puna.ml import Context, Tensor
from puna.ml.nn import (
    Embedding,
    Experts,
    LayerNorm,
    Linear,
    Projections,
    RMSNorm,
    attention,
    merge_heads,
    split_heads,
)

X = random(5, 64, seed=1)
EPS = 1e-5


def _apply(module: Linear | RMSNorm | LayerNorm, tensors: dict[str, Floats], path: Path, name: str) -> Floats:
    """The module's result for X."""
    with bound(module, write(path / "layer.gguf", tensors), name) as backend:
        return compute(backend, lambda context: module(context.input().from_floats(X, *X.shape)))


@pytest.mark.parametrize("bias", [True, "optional"])
def test_linear_with_bias(tmp_path: Path, backend_name: str, bias: bool) -> None:
    weight, offset = random(48, 64), random(48)
    found = _apply(
        Linear("a", 64, 48, bias=bias), {"a.weight": weight, "a.bias": offset}, tmp_path, backend_name
    )
    np.testing.assert_allclose(found, X @ weight.T + offset, atol=1e-4)


def test_linear_without_bias(tmp_path: Path, backend_name: str) -> None:
    weight = random(48, 64)
    layer = Linear("a", 64, None, bias="optional")
    np.testing.assert_allclose(
        _apply(layer, {"a.weight": weight}, tmp_path, backend_name), X @ weight.T, atol=1e-4
    )


def test_norms(tmp_path: Path, backend_name: str) -> None:
    weight, bias = random(64), random(64, seed=2)
    found = _apply(RMSNorm("n", 64, EPS), {"n.weight": weight}, tmp_path, backend_name)
    scale = np.sqrt((X**2).mean(-1, keepdims=True) + EPS)
    np.testing.assert_allclose(found, X / scale * weight, atol=1e-5)
    found = _apply(LayerNorm("n", 64, EPS), {"n.weight": weight, "n.bias": bias}, tmp_path, backend_name)
    centred = X - X.mean(-1, keepdims=True)
    expected = centred / np.sqrt(X.var(-1, keepdims=True) + EPS) * weight + bias
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_embedding(tmp_path: Path, backend_name: str) -> None:
    table, layer = random(10, 64), Embedding("t", None, 64)
    with bound(layer, write(tmp_path / "t.gguf", {"t.weight": table}), backend_name) as backend:
        found = compute(backend, lambda context: layer(context.input().from_ints([3, 0, 9, 3], 4)))
    assert (found == table[[3, 0, 9, 3]]).all()


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_projections(tmp_path: Path, backend_name: str, fuse: bool, biased: bool) -> None:
    """Three products of one input, with the weights stored together or apart."""
    rows = (64, 32, 96)
    weights = {f"{name}.weight": random(count, 64) for name, count in zip("qkv", rows, strict=True)}
    biases = {f"{name}.bias": random(count) for name, count in zip("qkv", rows, strict=True)}
    layer = Projections("qkv", 64, rows, bias="optional")
    path = write(tmp_path / "p.gguf", weights | (biases if biased else {}))
    with bound(layer, path, backend_name, fuse=fuse) as backend:
        assert (layer.weights.fused is not None) == fuse

        def project(context: Context, index: int) -> Tensor:
            result = layer(context.input().from_floats(X, *X.shape))[index]
            return result.contiguous(*result.shape)

        for index, name in enumerate("qkv"):
            found = compute(backend, partial(project, index=index))
            expected = X @ weights[f"{name}.weight"].T + (biases[f"{name}.bias"] if biased else 0)
            np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("biased", [True, False])
def test_experts(tmp_path: Path, backend_name: str, biased: bool) -> None:
    weight, bias = random(4, 48, 64), random(4, 48)
    chosen = np.array([[0, 3], [1, 2], [3, 3], [2, 0], [1, 0]], np.int32)
    layer = Experts("e", 4, 64, 48, bias=biased)
    tensors = {"e.weight": weight} | ({"e.bias": bias} if biased else {})
    with bound(layer, write(tmp_path / "e.gguf", tensors), backend_name) as backend:
        found = compute(
            backend,
            lambda context: layer(
                context.input().from_floats(X, 5, 1, 64), context.input().from_ints(chosen, 5, 2)
            ),
        )
    expected = np.einsum("tumk,tk->tum", weight[chosen], X) + (bias[chosen] if biased else 0)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def _naive_attention(q: Floats, k: Floats, v: Floats, scale: float, softcap: float) -> Floats:
    """One head at a time, in float64."""
    result = np.empty((q.shape[0], q.shape[1], v.shape[2]))
    for head in range(q.shape[1]):
        shared = head * k.shape[1] // q.shape[1]
        scores = q[:, head].astype(float) @ k[:, shared].T.astype(float) * scale
        if softcap:
            scores = softcap * np.tanh(scores / softcap)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        result[:, head] = weights / weights.sum(-1, keepdims=True) @ v[:, shared]
    return result.reshape(q.shape[0], -1).astype(np.float32)


@pytest.mark.parametrize("softcap", [0.0, 3.0])
def test_attention_without_history_sees_the_whole_batch(
    tmp_path: Path, backend_name: str, softcap: float
) -> None:
    q, k, v = random(5, 4, 32), random(5, 2, 32, seed=1), random(5, 2, 32, seed=2)
    path = write(tmp_path / "n.gguf", {"n.weight": random(1)})
    with bound(RMSNorm("n", 1, EPS), path, backend_name) as backend:

        def build(context: Context) -> Tensor:
            query, key, value = (context.input().from_floats(x, *x.shape) for x in (q, k, v))
            return attention(query, key, value, 0.3, logit_softcap=softcap)

        found = compute(backend, build)
    np.testing.assert_allclose(found, _naive_attention(q, k, v, 0.3, softcap), atol=2e-3)


def test_splitting_and_merging_heads(tmp_path: Path, backend_name: str) -> None:
    """Also where each token's elements lie apart from the next one's, or its heads apart from each other."""
    weight = random(96, 64)
    layer = Projections(("a", "b"), 64, (64, 32))
    path = write(tmp_path / "p.gguf", {"a.weight": weight[:64], "b.weight": weight[64:]})
    with bound(layer, path, backend_name) as backend:

        def heads(context: Context) -> Tensor:
            return split_heads(layer(context.input().from_floats(X, *X.shape))[1], 4)

        plain = compute(backend, lambda context: merge_heads(heads(context)) * 1.0)
        swapped = compute(backend, lambda context: merge_heads(heads(context).permute(1, 0, 2)) * 1.0)
    expected = X @ weight[64:].T
    np.testing.assert_allclose(plain, expected, atol=1e-4)
    np.testing.assert_allclose(swapped, expected.reshape(5, 4, 8).swapaxes(0, 1).reshape(4, 40), atol=1e-4)
