"""Operands that do not fit are refused, before a library could end the process over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from puna.errors import InvalidOption
from puna.ml import DType, RopeParameters, RopeType, Tensor

if TYPE_CHECKING:
    from tests.ml.conftest import Lab

Make = Callable[..., Tensor]


def rope(**changes: object) -> RopeParameters:
    return RopeParameters(**{"dimensions": 8, **changes})  # type: ignore[arg-type] # by name, in one place


FLOATS: dict[str, Callable[[Make], object]] = {
    "add: 3 does not repeat to 4": lambda f: f(2, 4).add(f(2, 3)),
    "add: the other is larger": lambda f: f(2, 4).add(f(4, 4)),
    "mul: the other has more axes": lambda f: f(4).mul(f(2, 4)),
    "sub: of no axis in common": lambda f: f(3, 5).sub(f(2)),
    "div: along a middle axis": lambda f: f(2, 4, 3).div(f(2, 3, 3)),
    "swiglu: sizes differ": lambda f: f(2, 8).swiglu(f(1, 8)),
    "geglu: sizes differ": lambda f: f(2, 8).geglu(f(2, 4)),
    "swiglu_oai: sizes differ": lambda f: f(2, 8).swiglu_oai(f(2, 4), 1.0, 1.0),
    "mul_mat: widths differ": lambda f: f(3, 8).mul_mat(f(2, 7)),
    "mul_mat: more matrices than vectors": lambda f: f(4, 3, 8).mul_mat(f(2, 2, 8)),
    "mul_mat: matrices do not divide vectors": lambda f: f(2, 3, 8).mul_mat(f(3, 2, 8)),
    "mul_mat: more axes than the vectors": lambda f: f(2, 3, 8).mul_mat(f(2, 8)),
    "ssm_conv: another number of channels": lambda f: f(1, 4, 8).ssm_conv(f(3, 2)),
    "ssm_conv: fewer elements than taps": lambda f: f(1, 4, 2).ssm_conv(f(4, 3)),
    "ssm_conv: no sequences": lambda f: f(4, 8).ssm_conv(f(4, 3)),
    "gated_delta_net: values of another width": lambda f: f(1, 2, 2, 4).gated_delta_net(
        f(1, 2, 2, 4), f(1, 2, 2, 5), f(1, 2, 2), f(1, 2, 2), f(1, 2, 5, 5)
    ),
    "gated_delta_net: heads that cannot share": lambda f: f(1, 2, 2, 4).gated_delta_net(
        f(1, 2, 2, 4), f(1, 2, 3, 4), f(1, 2, 3), f(1, 2, 3), f(1, 3, 4, 4)
    ),
    "gated_delta_net: a state of other sequences": lambda f: f(1, 2, 2, 4).gated_delta_net(
        f(1, 2, 2, 4), f(1, 2, 2, 4), f(1, 2, 2), f(1, 2, 2), f(2, 2, 4, 4)
    ),
    "gated_delta_net: no sequences": lambda f: f(2, 2, 4).gated_delta_net(
        f(2, 2, 4), f(2, 2, 4), f(2, 2), f(2, 2), f(2, 4, 4)
    ),
    "softmax: mask of other columns": lambda f: f(2, 3, 4).softmax(f(3, 5)),
    "softmax: mask of other rows": lambda f: f(2, 3, 4).softmax(f(2, 4)),
    "softmax: a mask per head": lambda f: f(2, 3, 4).softmax(f(2, 3, 4)),
    "softmax: a mask of one axis": lambda f: f(2, 3, 4).softmax(f(4)),
    "softmax: sinks for other heads": lambda f: f(2, 3, 4).softmax(None, 1.0, f(3)),
    "softmax: sinks without heads": lambda f: f(3, 4).softmax(None, 1.0, f(3)),
    "top_k: more than there are": lambda f: f(2, 4).top_k(5),
    "top_k: none": lambda f: f(2, 4).top_k(0),
    "reshape: other number": lambda f: f(2, 4).reshape(3, 3),
    "reshape: two unknown": lambda f: f(2, 4).reshape(-1, -1),
    "reshape: unknown does not divide": lambda f: f(2, 4).reshape(3, -1),
    "reshape: five axes": lambda f: f(2, 4).reshape(1, 1, 1, 2, 4),
    "reshape: zero": lambda f: f(2, 4).reshape(0, -1),
    "reshape: nothing": lambda f: f(2, 4).reshape(),
    "contiguous: other number": lambda f: f(2, 4).contiguous(9),
    "view: beyond the end": lambda f: f(2, 4).view(16, (5,)),
    "view: before the start": lambda f: f(2, 4).view(-4, (2,)),
    "view: strides beyond the end": lambda f: f(2, 4).view(0, (2, 4), (20,)),
    "view: too few strides": lambda f: f(2, 4).view(0, (1, 2, 2), (8,)),
    "view: negative stride": lambda f: f(2, 4).view(16, (2, 4), (-16,)),
    "view: no axes": lambda f: f(2, 4).view(0, ()),
    "view: empty": lambda f: f(2, 4).view(0, (0, 4)),
    "view: overlapping beyond the end": lambda f: f(10).view(0, (8, 3), (4,)),
    "permute: twice the same": lambda f: f(2, 3, 4).permute(0, 0, 1),
    "permute: too few": lambda f: f(2, 3, 4).permute(1, 0),
    "permute: no such axis": lambda f: f(2, 3).permute(0, 2),
    "pad: too few counts": lambda f: f(2, 3).pad(1),
    "pad: negative": lambda f: f(2, 3).pad(0, -1),
    "repeat: no times": lambda f: f(2, 3).repeat(0, 0),
    "repeat: no such axis": lambda f: f(2, 3).repeat(2, 2),
    "concat: other sizes": lambda f: f(2, 3).concat(f(3, 3), 1),
    "concat: other axes": lambda f: f(2, 3).concat(f(2, 3, 1), 1),
    "concat: no such axis": lambda f: f(2, 3).concat(f(2, 3), -3),
    "stack: other sizes": lambda f: f(2, 3).stack(0, f(2, 3), f(2, 4)),
    "slice: empty": lambda f: f(4, 4).slice(0, 2, 2),
    "slice: beyond the end": lambda f: f(4, 4).slice(1, 0, 5),
    "slice: no such axis": lambda f: f(4, 4).slice(2, 0, 1),
    "slice: step of nothing": lambda f: f(4, 4).slice(0, 0, 4, 0),
    "chunk: no such axis": lambda f: f(4).chunk(1, 2),
    "chunk_sections: too much": lambda f: f(4, 4).chunk_sections(0, 2, 3),
    "set: beyond the end": lambda f: f(2, 4).set(f(5), 16),
    "set: rows beyond the end": lambda f: f(2, 4).set(f(2, 3), 8, 16),
    "set: a matrix without strides": lambda f: f(2, 4).set(f(2, 2), 0),
    "copy: other number": lambda f: f(2, 4).copy(f(9)),
    "layer_norm: weight of another size": lambda f: f(2, 4).layer_norm(f(3), None, 1e-5),
    "rms_norm: weight of another size": lambda f: f(2, 4).rms_norm(f(3), 1e-5),
    "avg_pool_2d: window too large": lambda f: f(1, 3, 3).avg_pool_2d(4, 1, 0),
    "avg_pool_2d: one axis": lambda f: f(9).avg_pool_2d(2, 1, 0),
    "avg_pool_2d: no stride": lambda f: f(4, 4).avg_pool_2d(2, 0, 0),
    "conv_2d: other channels": lambda f: f(2, 3, 2, 2).conv_2d(f(1, 2, 5, 5), (1, 1), (0, 0), (1, 1)),
    "conv_2d: kernel too large": lambda f: f(2, 3, 6, 6).conv_2d(f(1, 3, 5, 5), (1, 1), (0, 0), (1, 1)),
    "conv_2d: no stride": lambda f: f(2, 3, 2, 2).conv_2d(f(1, 3, 5, 5), (0, 1), (0, 0), (1, 1)),
    "im2col: three axes": lambda f: f(3, 2, 2).im2col(f(3, 5, 5), (1, 1), (0, 0), (1, 1)),
    "attention: head sizes differ": lambda f: f(2, 4, 8).scaled_dot_product_attention(
        f(3, 2, 4), f(3, 2, 8), None, 1.0
    ),
    "attention: heads are not shared evenly": lambda f: f(2, 3, 8).scaled_dot_product_attention(
        f(3, 2, 8), f(3, 2, 8), None, 1.0
    ),
    "attention: fewer values than keys": lambda f: f(2, 4, 8).scaled_dot_product_attention(
        f(3, 2, 8), f(2, 2, 8), None, 1.0
    ),
    "attention: mask of other sizes": lambda f: f(2, 4, 8).scaled_dot_product_attention(
        f(3, 2, 8), f(3, 2, 8), f(3, 2), 1.0
    ),
    "attention: sinks for other heads": lambda f: f(2, 4, 8).scaled_dot_product_attention(
        f(3, 2, 8), f(3, 2, 8), None, 1.0, sinks=f(3)
    ),
    "attention: a query of two axes": lambda f: f(4, 8).scaled_dot_product_attention(
        f(3, 2, 8), f(3, 2, 8), None, 1.0
    ),
}
WITH_IDS: dict[str, Callable[[Make, Make], object]] = {
    "add: integers": lambda f, i: f(2, 4).add(i(2, 4)),
    "exp: integers": lambda f, i: i(2, 4).exp(),
    "softmax: integers": lambda f, i: i(2, 4).softmax(),
    "norm: integers": lambda f, i: i(2, 4).norm(1e-5),
    "sum_rows: integers": lambda f, i: i(2, 4).sum_rows(),
    "argsort: integers": lambda f, i: i(2, 4).argsort(),
    "mul_mat: integers": lambda f, i: f(2, 4).mul_mat(i(2, 4)),
    "concat: other types": lambda f, i: f(2, 4).concat(i(2, 4), 0),
    "set: other types": lambda f, i: f(2, 4).set(i(4), 0),
    "rows: numbers that are floats": lambda f, i: f(3, 4).rows(f(2)),
    "rows: other batches": lambda f, i: f(2, 3, 4).rows(i(3, 2)),
    "rows: of a vector": lambda f, i: f(4).rows(i(2)),
    "set_rows: other widths": lambda f, i: f(3, 4).set_rows(f(2, 5), i(2)),
    "set_rows: too few numbers": lambda f, i: f(3, 4).set_rows(f(2, 4), i(1)),
    "set_rows: numbers that are floats": lambda f, i: f(3, 4).set_rows(f(2, 4), f(2)),
    "set_rows: values that are integers": lambda f, i: f(3, 4).set_rows(i(2, 4), i(2)),
    "mul_mat_id: other tokens": lambda f, i: f(3, 5, 4).mul_mat_id(f(2, 1, 4), i(3, 2)),
    "mul_mat_id: other widths": lambda f, i: f(3, 5, 4).mul_mat_id(f(2, 1, 5), i(2, 2)),
    "mul_mat_id: not spread evenly": lambda f, i: f(3, 5, 4).mul_mat_id(f(2, 2, 4), i(2, 3)),
    "mul_mat_id: one matrix": lambda f, i: f(5, 4).mul_mat_id(f(2, 1, 4), i(2, 2)),
    "mul_mat_id: numbers that are floats": lambda f, i: f(3, 5, 4).mul_mat_id(f(2, 1, 4), f(2, 2)),
    "add_id: other widths": lambda f, i: f(2, 2, 4).add_id(f(3, 5), i(2, 2)),
    "add_id: other tokens": lambda f, i: f(2, 2, 4).add_id(f(3, 4), i(3, 2)),
    "add_id: two axes": lambda f, i: f(2, 4).add_id(f(3, 4), i(2)),
    "rope: two axes": lambda f, i: f(2, 8).rope(i(2), rope()),
    "rope: too few positions": lambda f, i: f(3, 2, 8).rope(i(2), rope()),
    "rope: positions that are floats": lambda f, i: f(3, 2, 8).rope(f(3), rope()),
    "rope: odd dimensions": lambda f, i: f(3, 2, 8).rope(i(3), rope(dimensions=7)),
    "rope: more dimensions than the head": lambda f, i: f(3, 2, 8).rope(i(3), rope(dimensions=10)),
    "rope: no dimensions": lambda f, i: f(3, 2, 8).rope(i(3), rope(dimensions=0)),
    "rope: too few factors": lambda f, i: f(3, 2, 8).rope(i(3), rope(), f(3)),
    "rope: one position for four sections": lambda f, i: f(3, 2, 8).rope(
        i(3), rope(type=RopeType.MULTI, sections=(2, 1, 1))
    ),
    "rope: sections of nothing": lambda f, i: f(3, 2, 8).rope(i(12), rope(type=RopeType.MULTI)),
    "rope: vision turns the whole head": lambda f, i: f(3, 2, 8).rope(
        i(12), rope(type=RopeType.VISION, sections=(2, 2, 2, 2))
    ),
}


@pytest.mark.parametrize("name", [*FLOATS, *WITH_IDS])
def test_operands_that_do_not_fit(attention_lab: Lab, name: str) -> None:
    with attention_lab.backend.new_context() as context:

        def floats(*shape: int) -> Tensor:
            return context.input().zeros(DType.F32, *shape)

        def ids(*shape: int) -> Tensor:
            return context.input().zeros(DType.I32, *shape)

        with pytest.raises(InvalidOption) as caught:
            FLOATS[name](floats) if name in FLOATS else WITH_IDS[name](floats, ids)
        assert "\n" not in str(caught.value)


def test_quantised_weights_are_for_products_and_rows(lab: Lab) -> None:
    weight = lab.weight("blk.0.Q4_0.weight")
    with lab.backend.new_context() as context:
        own = weight.on(context)
        x = lab.input(context, np.zeros((24, 256), np.float32))
        builds: tuple[Callable[[], Tensor], ...] = (
            lambda: own.add(x),
            lambda: x.add(own),
            lambda: own.exp(),
            lambda: own.softmax(),
            lambda: own.rms_norm(None, 1e-5),
            lambda: own.pad(0, 1),
            lambda: own.permute(1, 0).contiguous(),
            lambda: x.mul_mat(own),
        )
        for build in builds:
            with pytest.raises(InvalidOption):
                build()


def test_blocks_are_not_cut(lab: Lab) -> None:
    with lab.backend.new_context() as owner, lab.backend.new_context() as context:
        cache = owner.layer(0).zeros(DType.Q8_0, 4, 64).on(context)
        with pytest.raises(InvalidOption):
            cache.view(0, (4, 16), (68,))
        with pytest.raises(InvalidOption):
            cache.reshape(16, 16)
        with pytest.raises(InvalidOption, match="blocks"):
            cache.slice(1, 32, 64)
        assert cache.slice(0, 1, 3).shape == (2, 64)
        assert cache.view(34, (4, 32), (68,)).shape == (4, 32)


def test_operands_of_different_contexts_and_backends(lab: Lab) -> None:
    with lab.backend.new_context() as first, lab.backend.new_context() as second:
        x, y = (lab.input(context, np.zeros(4, np.float32)) for context in (first, second))
        with pytest.raises(InvalidOption, match="different contexts"):
            x.add(y)
