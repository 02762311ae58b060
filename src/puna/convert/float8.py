"""Matrices of eight-bit numbers with scales, as BF16: what the two mean together.

Sources: Micikevicius et al., "FP8 Formats for Deep Learning" (arXiv:2209.05433) for the numbers; the files'
`quantization_config` for the scales, which belong to a matrix, to its rows, or to blocks of it.
"""

import math
import struct
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from puna.convert.content import Source
from puna.convert.elements import element_type, floats
from puna.convert.folder import shown
from puna.convert.safetensors import StoredTensor
from puna.convert.sources import Made
from puna.errors import FormatError, UnsupportedModel

_PIECE = 1 << 20
_SCALES = ("_scale_inv", "_scale")
# Scales of what goes into a product, which is not quantized here.
_UNUSED = (".input_scale", ".activation_scale", ".k_scale", ".v_scale", ".input_scale_inv")
# The last is that of gpt-oss, whose converter reads it.
_METHODS = ("fp8", "compressed-tensors", "modelopt", "mxfp4")


def _e4m3(code: int) -> float:
    exponent, fraction = code >> 3 & 15, code & 7
    if code & 127 == 127:
        return math.nan
    size = math.ldexp(fraction, -9) if exponent == 0 else math.ldexp(8 + fraction, exponent - 10)
    return -size if code & 128 else size


# E5M2 is the upper half of a number in half precision.
_VALUES = {
    "F8_E4M3": [_e4m3(code) for code in range(256)],
    "F8_E5M2": [struct.unpack("<e", bytes((0, code)))[0] for code in range(256)],
}


@dataclass(frozen=True, slots=True)
class Scaled(Made):
    """A matrix in BF16.

    Attributes:
        source: of eight-bit numbers.
        scales: in rows of blocks.
        block: rows and columns that share a scale.
    """

    source: Source
    scales: "array[float]"
    block: tuple[int, int]

    def chunks(self) -> Iterator[bytes]:
        return self.rows(0, self.shape[0])

    def rows(self, begin: int, end: int) -> Iterator[bytes]:
        high, wide = self.block
        columns = self.shape[1]
        across = -(-columns // wide)
        step = max(1, _PIECE // max(1, columns))
        while begin < end:
            band = begin // high
            tables = [
                _table(self.source.dtype, scale) for scale in self.scales[band * across : (band + 1) * across]
            ]
            stop = min(end, (band + 1) * high, begin + step)
            yield _translated(b"".join(self.source.rows(begin, stop)), columns, wide, tables)
            begin = stop


def _translated(codes: bytes, columns: int, wide: int, tables: list[tuple[bytes, bytes]]) -> bytes:
    """The numbers that rows of eight-bit ones mean, each table being for the next `wide` columns."""
    made = bytearray(2 * len(codes))
    for byte in (0, 1):
        if len(tables) == 1:
            made[byte::2] = codes.translate(tables[0][byte])
            continue
        made[byte::2] = b"".join(
            codes[at + column : min(at + column + wide, at + columns)].translate(table[byte])
            for at in range(0, len(codes), columns)
            for column, table in zip(range(0, columns, wide), tables, strict=True)
        )
    return bytes(made)


def _table(dtype: str, scale: float) -> tuple[bytes, bytes]:
    """What each code becomes: the lower and the upper byte of a number in BF16, rounded to nearest even."""
    bits = array("I", array("f", [value * scale for value in _VALUES[dtype]]).tobytes())
    rounded = [
        # Adding half of what is dropped could make an infinity of what is no number.
        bit >> 16 | 64 if bit & 0x7FFFFFFF > 0x7F800000 else (bit + 0x7FFF + (bit >> 16 & 1)) >> 16
        for bit in bits
    ]
    return bytes(bit & 255 for bit in rounded), bytes(bit >> 8 for bit in rounded)


def unscaled(tensors: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> dict[str, Source]:
    """The tensors with eight-bit matrices put together with their scales.

    Args:
        config: `quantization_config`, empty where there is none.

    Raises:
        UnsupportedModel: the weights are quantized otherwise.
        FormatError: a scale is missing or has a shape that makes no sense.
    """
    method = config.get("quant_method")
    if method not in (None, *_METHODS):
        raise UnsupportedModel(f"config.json: weights quantized by {shown(method)} are not supported")
    if not any(tensor.dtype in _VALUES for tensor in tensors.values()):
        return dict(tensors)
    found: dict[str, Source] = {}
    for name, tensor in tensors.items():
        if tensor.dtype in _VALUES:
            found[name] = _scaled(tensor, tensors, _block(config))
        elif not name.endswith(_UNUSED) and not _is_scale(name, tensors):
            found[name] = tensor
    return found


def _is_scale(name: str, tensors: Mapping[str, StoredTensor]) -> bool:
    scaled = [tensors.get(name.removesuffix(end)) for end in _SCALES if name.endswith(end)]
    return any(tensor is not None and tensor.dtype in _VALUES for tensor in scaled)


def _block(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of a block, where the configuration names them."""
    groups = config.get("config_groups")
    group = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = group.get("weights") if isinstance(group, dict) else None
    stated = config.get("weight_block_size") or (
        weights.get("block_structure") if isinstance(weights, dict) else None
    )
    if not isinstance(stated, list) or len(stated) != 2:
        return None
    high, wide = stated
    return (high, wide) if type(high) is type(wide) is int and min(high, wide) > 0 else None


def _scaled(
    tensor: StoredTensor, tensors: Mapping[str, StoredTensor], block: tuple[int, int] | None
) -> Scaled:
    scale = next((tensors[tensor.name + end] for end in _SCALES if tensor.name + end in tensors), None)
    if scale is None or len(tensor.shape) != 2:
        raise FormatError(
            f"{tensor.file}: the eight-bit tensor {tensor.name[:100]!r} has no scale of its own"
        )
    rows, columns = tensor.shape
    parts = _parts(scale.shape, tensor.shape, block)
    if parts is None:
        raise FormatError(
            f"{scale.file}: {scale.name[:100]!r} has the shape {scale.shape}, which does not fit "
            f"{rows} × {columns} numbers"
        )
    element_type(scale, None)
    numbers = array("f", b"".join(floats(scale.dtype, scale.chunks())))
    return Scaled(tensor.name, "BF16", tensor.shape, tensor.file, tensor, numbers, parts)


def _parts(
    scale: tuple[int, ...], shape: tuple[int, ...], block: tuple[int, int] | None
) -> tuple[int, int] | None:
    """Rows and columns that share a scale; None where the shapes do not fit."""
    rows, columns = max(1, shape[0]), max(1, shape[1])
    if math.prod(scale) == 1:
        return rows, columns
    if scale in ((rows,), (rows, 1)):
        return 1, columns
    if block is not None and scale == (-(-rows // block[0]), -(-columns // block[1])):
        return block
    return None
