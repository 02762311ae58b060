"""Parameters of rotary position embeddings."""

from dataclasses import dataclass
from enum import IntEnum


class RopeType(IntEnum):
    """Which elements of a head are rotated together; numbers as in ggml.

    NORMAL pairs neighbours (0, 1), (2, 3) …; NEOX pairs halves (0, n/2), (1, n/2 + 1) …. The others split
    the dimensions into sections with a position each (time, height, width, extra). VISION pairs the halves
    of the whole head, each section starting again with the highest frequency.
    """

    NORMAL = 0
    NEOX = 2
    MULTI = 8
    VISION = 24
    INTERLEAVED_MULTI = 40

    @property
    def is_multi(self) -> bool:
        """Whether a token has a position for each of four sections instead of one."""
        return self in (RopeType.MULTI, RopeType.VISION, RopeType.INTERLEAVED_MULTI)

    @property
    def positions(self) -> int:
        """Positions per token."""
        return 4 if self.is_multi else 1


@dataclass(frozen=True, slots=True)
class RopeParameters:
    """How positions turn into angles.

    Attributes:
        dimensions: how many elements of a head are rotated; the rest pass unchanged. For VISION half of the
            head's elements, although all are rotated.
        base: frequency base; frequency i is base^(-2i / dimensions).
        scale: positions are divided by this (linear interpolation, arXiv:2306.15595); YaRN's factor.
        type: the pairing.
        original_context: tokens the model was trained on, for YaRN's ramp.
        extrapolation: YaRN's mix of interpolated and plain frequencies (arXiv:2309.00071); 0 without YaRN.
        attention_factor: magnitude of the rotated vectors. With YaRN, 1 + 0.1 ln(scale) multiplies it.
        beta_fast: rotations in the original context above which YaRN leaves a frequency as it is.
        beta_slow: rotations below which YaRN interpolates it fully.
        sections: pairs of dimensions per section, for multi-section types; up to four.
    """

    dimensions: int
    base: float = 10000.0
    scale: float = 1.0
    type: RopeType = RopeType.NORMAL
    original_context: int = 131072
    extrapolation: float = 0.0
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    sections: tuple[int, ...] = ()
