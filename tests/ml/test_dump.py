"""Dump: the exact text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from puna.ml import DType, DumpOptions, dump
from puna.ml.array import Array

if TYPE_CHECKING:
    from tests.ml.conftest import Lab


def text(lab: Lab, values: Array, options: DumpOptions | None = None) -> str:
    with lab.backend.new_context() as context:
        return dump(context, lab.input(context, values), options)


def counted(*shape: int) -> Array:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_a_vector(lab: Lab) -> None:
    assert text(lab, np.array([1, -2, 3], np.float32)) == "[ 1.0000, -2.0000,  3.0000]"


def test_three_axes(lab: Lab) -> None:
    assert text(lab, counted(2, 2, 2)) == (
        "[[[ 0.0000,  1.0000],\n  [ 2.0000,  3.0000]],\n\n [[ 4.0000,  5.0000],\n  [ 6.0000,  7.0000]]]"
    )


def test_four_axes(lab: Lab) -> None:
    assert text(lab, counted(2, 1, 1, 1), DumpOptions(precision=0)) == "[[[[ 0]]],\n\n\n [[[ 1]]]]"


def test_edges_of_a_long_vector(lab: Lab) -> None:
    options = DumpOptions(threshold=5, edge_items=2)
    assert text(lab, counted(10), options) == "[ 0.0000,  1.0000, ...,  8.0000,  9.0000]"


def test_edges_of_rows(lab: Lab) -> None:
    options = DumpOptions(threshold=5, edge_items=1)
    assert text(lab, counted(6, 2), options) == "[[ 0.0000,  1.0000],\n ..., \n [ 10.0000,  11.0000]]"


def test_edges_of_every_axis(lab: Lab) -> None:
    options = DumpOptions(precision=0, threshold=5, edge_items=1)
    assert text(lab, counted(3, 3, 3), options) == (
        "[[[ 0, ...,  2],\n  ..., \n  [ 6, ...,  8]],\n\n ..., \n\n "
        "[[ 18, ...,  20],\n  ..., \n  [ 24, ...,  26]]]"
    )


def test_as_many_elements_as_the_threshold_are_all_printed(lab: Lab) -> None:
    options = DumpOptions(precision=0, threshold=4, edge_items=1)
    assert text(lab, counted(4), options) == "[ 0,  1,  2,  3]"
    assert text(lab, counted(5), options) == "[ 0, ...,  4]"


def test_more_edge_items_than_elements(lab: Lab) -> None:
    assert text(lab, counted(3), DumpOptions(precision=0, threshold=1, edge_items=2)) == "[ 0,  1,  2]"


def test_precision(lab: Lab) -> None:
    assert text(lab, np.array([1 / 3, -2 / 3], np.float32), DumpOptions(precision=2)) == "[ 0.33, -0.67]"


def test_integers(lab: Lab) -> None:
    assert text(lab, np.array([[1, -20], [300, 0]], np.int32)) == "[[ 1, -20],\n [ 300,  0]]"


@pytest.mark.parametrize("dtype", [DType.F16, DType.Q8_0, DType.Q4_0])
def test_types_that_are_converted(lab: Lab, dtype: DType) -> None:
    values = np.tile(np.array([-8, 7], np.float32), 16).reshape(1, 32) / np.float32(8)
    with lab.backend.new_context() as owner, lab.backend.new_context() as context:
        cache = owner.layer(0).zeros(dtype, 1, 32)
        ids = context.input().from_ints([0], 1)
        context.forward(cache.set_rows(lab.input(context, values), ids)).compute()
        options = DumpOptions(precision=1, threshold=1, edge_items=2)
        assert dump(context, cache, options) == "[[-1.0,  0.9, ..., -1.0,  0.9]]"


def test_other_types(lab: Lab) -> None:
    with lab.backend.new_context() as context:
        assert dump(context, context.input().zeros(DType.I64, 3)) == "<unsupported>"
        assert dump(context, lab.weight("blk.0.Q4_K.weight")) == "<unsupported>"


@pytest.mark.parametrize("compute_first", [True, False])
def test_results(lab: Lab, compute_first: bool) -> None:
    with lab.backend.new_context() as context:
        result = lab.input(context, counted(3)).scale(2.0, 1.0)
        if compute_first:
            context.forward(result).compute(result)
        assert dump(context, result, DumpOptions(precision=1)) == "[ 1.0,  3.0,  5.0]"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.inf, "[ +Inf]"),
        (-np.inf, "[-Inf]"),
        (np.nan, "[ NaN]"),
    ],
)
def test_what_is_no_number(lab: Lab, value: float, expected: str) -> None:
    assert text(lab, np.array([value], np.float32)) == expected
