"""A backend's own version of a derived operation gives what the definition in the base class gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from puna.ml import Tensor
from puna.ml.array import Array

if TYPE_CHECKING:
    from tests.ml.conftest import Lab

EPS = 1e-5


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 2


X, Y, VECTOR = normal(1, 4, 3, 16), normal(2, 4, 3, 16), normal(3, 16)
HEADS = [normal(4, 5, 4, 32), normal(5, 9, 2, 32), normal(6, 9, 2, 32)]
IDS = np.array([[0, 2, 1], [1, 1, 0], [2, 0, 2], [0, 1, 2]], np.int32)

# The operation as a backend has it, its definition, the operands. The tolerance is that of tables of GELU
# and of attention in half precision.
CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[Array], float]] = {
    "silu": (lambda x: x.silu(), lambda x: Tensor.silu(x), [X], 1e-6),
    "quick_gelu": (lambda x: x.quick_gelu(), lambda x: Tensor.quick_gelu(x), [X], 2e-3),
    "swiglu": (lambda x, y: x.swiglu(y), lambda x, y: Tensor.swiglu(x, y), [X, Y], 1e-6),
    "geglu": (lambda x, y: x.geglu(y), lambda x, y: Tensor.geglu(x, y), [X, Y], 2e-3),
    "reglu": (lambda x, y: x.reglu(y), lambda x, y: Tensor.reglu(x, y), [X, Y], 1e-6),
    "swiglu_oai": (
        lambda x, y: x.swiglu_oai(y, 1.702, 1.0),
        lambda x, y: Tensor.swiglu_oai(x, y, 1.702, 1.0),
        [X, Y],
        1e-6,
    ),
    "add_id": (
        lambda x, y, i: x.add_id(y, i),
        lambda x, y, i: Tensor.add_id(x, y, i),
        [X, normal(7, 3, 16), IDS],
        1e-6,
    ),
    "layer_norm": (
        lambda x, y: x.layer_norm(y, y, EPS),
        lambda x, y: Tensor.layer_norm(x, y, y, EPS),
        [X, VECTOR],
        1e-5,
    ),
    "rms_norm": (
        lambda x, y: x.rms_norm(y, EPS),
        lambda x, y: Tensor.rms_norm(x, y, EPS),
        [X, VECTOR],
        1e-5,
    ),
    "l2_norm": (lambda x: x.l2_norm(EPS), lambda x: Tensor.l2_norm(x, EPS), [X], 1e-5),
    "l2_norm of little": (lambda x: x.l2_norm(1e6), lambda x: Tensor.l2_norm(x, 1e6), [X], 1e-5),
    "variance": (lambda x: x.variance(), lambda x: Tensor.variance(x), [X], 1e-5),
    "stddev": (lambda x: x.stddev(), lambda x: Tensor.stddev(x), [X], 1e-5),
    "stack": (lambda x, y: x.stack(1, y, x), lambda x, y: Tensor.stack(x, 1, y, x), [X, Y], 0.0),
    "slice": (
        lambda x: x.slice(2, 1, 15, 3).contiguous(),
        lambda x: Tensor.slice(x, 2, 1, 15, 3).contiguous(),
        [X],
        0.0,
    ),
    "attention": (
        lambda q, k, v: q.scaled_dot_product_attention(k, v, None, 0.1),
        lambda q, k, v: Tensor.scaled_dot_product_attention(q, k, v, None, 0.1),
        HEADS,
        2e-3,
    ),
    "attention with softcap and sinks": (
        lambda q, k, v, s: q.scaled_dot_product_attention(k, v, None, 0.1, sinks=s, logit_softcap=5.0),
        lambda q, k, v, s: Tensor.scaled_dot_product_attention(
            q, k, v, None, 0.1, sinks=s, logit_softcap=5.0
        ),
        [*HEADS, normal(8, 4)],
        2e-3,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_fused_equals_derived(lab: Lab, name: str) -> None:
    fused, derived, arrays, tolerance = CASES[name]
    lab.close_to(lab.run(fused, *arrays), lab.run(derived, *arrays), tolerance, 0.0)


def test_both_backends_are_asked_for_every_derived_operation() -> None:
    """A new derived operation must get a case here, or be one of those that only cut and never compute."""
    derived = {
        name
        for name, member in vars(Tensor).items()
        if callable(member)
        and not name.startswith("_")
        and name not in Tensor.__abstractmethods__
        and name not in ("dim", "chunk", "chunk_sections", "gated_delta_net")
    }
    named = {
        "scaled_dot_product_attention" if case.startswith("attention") else case.split()[0] for case in CASES
    }
    assert derived == named


def test_operators_are_the_named_operations(lab: Lab) -> None:
    pairs: list[tuple[Callable[..., Tensor], Callable[..., Tensor]]] = [
        (lambda x, y: x + y, lambda x, y: x.add(y)),
        (lambda x, y: x - y, lambda x, y: x.sub(y)),
        (lambda x, y: x * y, lambda x, y: x.mul(y)),
        (lambda x, y: x / y, lambda x, y: x.div(y)),
        (lambda x, y: -x * math.pi, lambda x, y: x.neg().scale(math.pi)),
    ]
    for operator, method in pairs:
        np.testing.assert_array_equal(lab.run(operator, X, Y), lab.run(method, X, Y))
