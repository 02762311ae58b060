"""Rotary position embedding: angles by formula, then the rotation."""

import math

import numpy as np

from puna.ml.array import Array
from puna.ml.rope import RopeParameters, RopeType


def rotate(heads: Array, positions: Array, p: RopeParameters, factors: Array | None) -> Array:
    """Heads (tokens, heads, head_size) turned by their tokens' positions; float64."""
    first, second = _pairs(p)
    angles, magnitude = _angles(positions.astype(np.float64), p, factors, len(first))
    cos, sin = (np.expand_dims(f(angles) * magnitude, 1) for f in (np.cos, np.sin))
    result = heads.copy()
    x, y = heads[..., first], heads[..., second]
    result[..., first] = x * cos - y * sin
    result[..., second] = x * sin + y * cos
    return result


def _pairs(p: RopeParameters) -> tuple[Array, Array]:
    """Which elements are turned together."""
    if p.type is RopeType.NORMAL:
        first = np.arange(0, p.dimensions, 2)
        return first, first + 1
    distance = p.dimensions if p.type is RopeType.VISION else p.dimensions // 2
    first = np.arange(distance)
    return first, first + distance


def _angles(positions: Array, p: RopeParameters, factors: Array | None, pairs: int) -> tuple[Array, float]:
    """Angles (tokens, pairs) and the length of the turned vectors."""
    chosen, powers = _sections(positions, p, pairs)
    plain = chosen * p.base ** (-2.0 * powers / p.dimensions)
    if factors is not None:
        plain = plain / factors[:pairs]
    interpolated = plain / p.scale
    if p.extrapolation == 0.0:
        return interpolated, p.attention_factor
    mix = _ramp(p, pairs) * p.extrapolation
    angles = interpolated * (1 - mix) + plain * mix
    return angles, p.attention_factor * (1 + 0.1 * math.log(p.scale))


def _ramp(p: RopeParameters, pairs: int) -> Array:
    """YaRN: 1 where a pair turns often enough in the original context to be left alone, else 0."""

    def pair_with(rotations: float) -> float:
        wavelengths = p.original_context / (rotations * 2 * math.pi)
        return p.dimensions * math.log(wavelengths) / (2 * math.log(p.base))

    low = max(0, math.floor(pair_with(p.beta_fast)))
    high = min(p.dimensions - 1, math.ceil(pair_with(p.beta_slow)))
    return 1 - np.clip((np.arange(pairs) - low) / max(0.001, high - low), 0, 1)


def _sections(positions: Array, p: RopeParameters, pairs: int) -> tuple[Array, Array]:
    """The position that each pair goes by (tokens, pairs), and the power of its frequency (pairs,)."""
    index = np.arange(pairs)
    if not p.type.is_multi:
        return positions[:, None].repeat(pairs, axis=1), index
    count = p.type.positions
    sizes = [*p.sections, 0, 0, 0, 0][:count]
    place = index % sum(sizes)
    starts = np.cumsum([0, *sizes[:-1]])
    section = np.searchsorted(starts[1:], place, side="right")
    powers = place - starts[section] if p.type is RopeType.VISION else index
    if p.type is RopeType.INTERLEAVED_MULTI:
        own = place % 3
        section = np.where(place < 3 * np.array(sizes)[own], own, count - 1)
    return positions.reshape(count, -1)[section].T, powers
