"""Block formats: from bytes to numbers and back.

Each decoder takes the blocks of one type as bytes, uint8 (blocks, type_size), and gives their elements,
float32 (blocks, block_size). Encoders do the reverse, with ggml's rounding. Layouts: ggml-common.h.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from puna.gguf import GGMLType
from puna.ml.array import Floats

Bytes = NDArray[np.uint8]

# A Python integer would widen the bytes.
_FOUR = np.uint8(4)
_LOW_TWO, _LOW_NIBBLE = np.uint8(3), np.uint8(15)

# OCP Microscaling formats, FP4 E2M1; doubled, because the shared scale is stored for doubled elements.
_FP4_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def _half(blocks: Bytes, offset: int) -> Floats:
    """The float16 at `offset` of every block, as a column."""
    return blocks[:, offset : offset + 2].copy().view("<f2").astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """Low nibbles, then high nibbles, of each row."""
    return np.concatenate([packed & _LOW_NIBBLE, packed >> 4], axis=1)


def _fifth_bits(blocks: Bytes, offset: int) -> Bytes:
    """32 bits at `offset`, one per element, in place 4."""
    return np.unpackbits(blocks[:, offset : offset + 4], axis=1, bitorder="little") << _FOUR


def _q4_0(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _q4_1(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]).astype(np.float32) + _half(blocks, 2)


def _q5_0(blocks: Bytes) -> Floats:
    levels = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    return _half(blocks, 0) * (levels.astype(np.float32) - 16)


def _q5_1(blocks: Bytes) -> Floats:
    levels = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    return _half(blocks, 0) * levels.astype(np.float32) + _half(blocks, 2)


def _q8_0(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _mxfp4(blocks: Bytes) -> Floats:
    scale = np.ldexp(np.float32(1), blocks[:, :1].astype(np.int32) - 128)
    return scale * _FP4_DOUBLED[_nibbles(blocks[:, 1:])]


def _two_bits(packed: Bytes) -> Bytes:
    """Two halves of 32 bytes hold 128 elements each: bits 0-1 of all bytes, then bits 2-3, …"""
    halves = packed.reshape(-1, 2, 1, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    return ((halves >> shifts) & _LOW_TWO).reshape(-1, 256)


def _q2_k(blocks: Bytes) -> Floats:
    levels = _two_bits(blocks[:, 16:80]).astype(np.float32).reshape(-1, 16, 16)
    scales = blocks[:, :16]
    step = (_half(blocks, 80) * (scales & _LOW_NIBBLE)).reshape(-1, 16, 1)
    low = (_half(blocks, 82) * (scales >> 4)).reshape(-1, 16, 1)
    return (step * levels - low).reshape(-1, 256)


def _q3_k(blocks: Bytes) -> Floats:
    masks = blocks[:, :32].reshape(-1, 1, 32)
    high = (masks >> np.arange(8, dtype=np.uint8).reshape(1, 8, 1)) & 1
    levels = _two_bits(blocks[:, 32:96]).astype(np.int8) + (high.reshape(-1, 256) << 2).astype(np.int8) - 4
    packed = blocks[:, 96:108]
    low_bits = _nibbles(packed[:, :8])
    high_bits = (packed[:, None, 8:] >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1)) & 3
    scales = (low_bits | (high_bits.reshape(-1, 16) << 4)).astype(np.float32) - 32
    step = (_half(blocks, 108) * scales).reshape(-1, 16, 1)
    return (step * levels.reshape(-1, 16, 16)).reshape(-1, 256)


def _k_scales(blocks: Bytes) -> tuple[Floats, Floats]:
    """Steps and offsets of the eight sub-blocks of Q4_K and Q5_K: 6 bits each, packed in 12 bytes."""
    first, second, third = (blocks[:, low : low + 4] for low in (4, 8, 12))
    scales = np.concatenate([first & 63, (third & _LOW_NIBBLE) | ((first >> 6) << 4)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    step, low = _half(blocks, 0) * scales, _half(blocks, 2) * minima
    return step.reshape(-1, 8, 1), low.reshape(-1, 8, 1)


def _k_nibbles(packed: Bytes) -> Bytes:
    """Four groups of 32 bytes: low nibbles are one sub-block, high nibbles the next."""
    groups = packed.reshape(-1, 4, 1, 32)
    return ((groups >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)) & _LOW_NIBBLE).reshape(-1, 8, 32)


def _q4_k(blocks: Bytes) -> Floats:
    step, low = _k_scales(blocks)
    return (step * _k_nibbles(blocks[:, 16:]) - low).reshape(-1, 256)


def _q5_k(blocks: Bytes) -> Floats:
    step, low = _k_scales(blocks)
    high = (blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8).reshape(1, 8, 1)) & 1
    levels = _k_nibbles(blocks[:, 48:]) | (high << 4)
    return (step * levels - low).reshape(-1, 256)


def _q6_k(blocks: Bytes) -> Floats:
    low = blocks[:, :128].reshape(-1, 2, 1, 64) >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    levels = (low & _LOW_NIBBLE).reshape(-1, 16, 16) | ((high & 3) << 4).reshape(-1, 16, 16)
    step = _half(blocks, 208) * blocks[:, 192:208].view(np.int8)
    return (step.reshape(-1, 16, 1) * (levels.astype(np.int8) - np.int8(32))).reshape(-1, 256)


_DECODERS: dict[GGMLType, Callable[[Bytes], Floats]] = {
    GGMLType.Q4_0: _q4_0,
    GGMLType.Q4_1: _q4_1,
    GGMLType.Q5_0: _q5_0,
    GGMLType.Q5_1: _q5_1,
    GGMLType.Q8_0: _q8_0,
    GGMLType.Q2_K: _q2_k,
    GGMLType.Q3_K: _q3_k,
    GGMLType.Q4_K: _q4_k,
    GGMLType.Q5_K: _q5_k,
    GGMLType.Q6_K: _q6_k,
    GGMLType.MXFP4: _mxfp4,
}


def _rounded(values: Floats) -> NDArray[np.float32]:
    """To the nearest integer, halves away from zero, as C's roundf."""
    return np.trunc(values + np.copysign(np.float32(0.5), values))


def _as_half(column: Floats) -> Bytes:
    return column.astype("<f2").view(np.uint8)


def _inverse(column: Floats) -> Floats:
    return np.divide(1, column, out=np.zeros_like(column), where=column != 0)


def _furthest(values: Floats) -> Floats:
    """The element of each row that is largest in magnitude, with its sign."""
    return np.take_along_axis(values, np.abs(values).argmax(axis=1, keepdims=True), axis=1)


def _span(values: Floats, levels: int) -> tuple[Floats, Floats]:
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    return (high - low) / np.float32(levels), low


def _packed(levels: Bytes) -> Bytes:
    return (levels[:, :16] & _LOW_NIBBLE) | ((levels[:, 16:] & _LOW_NIBBLE) << _FOUR)


def _packed_fifth(levels: Bytes) -> Bytes:
    return np.packbits(levels >> 4, axis=1, bitorder="little")


def _levels(values: Floats, top: int) -> Bytes:
    return np.minimum(np.trunc(values), np.float32(top)).astype(np.uint8)


def _to_q8_0(values: Floats) -> Bytes:
    step = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    levels = _rounded(values * _inverse(step)).astype(np.int8)
    return np.concatenate([_as_half(step), levels.view(np.uint8)], axis=1)


def _to_q4_0(values: Floats) -> Bytes:
    step = _furthest(values) / np.float32(-8)
    levels = _levels(values * _inverse(step) + np.float32(8.5), 15)
    return np.concatenate([_as_half(step), _packed(levels)], axis=1)


def _to_q4_1(values: Floats) -> Bytes:
    step, low = _span(values, 15)
    levels = _levels((values - low) * _inverse(step) + np.float32(0.5), 15)
    return np.concatenate([_as_half(step), _as_half(low), _packed(levels)], axis=1)


def _to_q5_0(values: Floats) -> Bytes:
    step = _furthest(values) / np.float32(-16)
    levels = _levels(values * _inverse(step) + np.float32(16.5), 31)
    return np.concatenate([_as_half(step), _packed_fifth(levels), _packed(levels)], axis=1)


def _to_q5_1(values: Floats) -> Bytes:
    step, low = _span(values, 31)
    levels = _levels((values - low) * _inverse(step) + np.float32(0.5), 31)
    return np.concatenate([_as_half(step), _as_half(low), _packed_fifth(levels), _packed(levels)], axis=1)


_ENCODERS: dict[GGMLType, Callable[[Floats], Bytes]] = {
    GGMLType.Q8_0: _to_q8_0,
    GGMLType.Q4_0: _to_q4_0,
    GGMLType.Q4_1: _to_q4_1,
    GGMLType.Q5_0: _to_q5_0,
    GGMLType.Q5_1: _to_q5_1,
}

DECODABLE = frozenset(_DECODERS)
ENCODABLE = frozenset(_ENCODERS)


def decode(blocks: Bytes, type_: GGMLType) -> Floats:
    """Elements of blocks, uint8 (blocks, type_size) → float32 (blocks, block_size).

    `type_` is one of DECODABLE.
    """
    return _DECODERS[type_](blocks)


def encode(values: Floats, type_: GGMLType) -> Bytes:
    """Blocks of elements, float32 (blocks, block_size) → uint8 (blocks, type_size).

    `type_` is one of ENCODABLE.
    """
    return _ENCODERS[type_](values)
