"""Elements of tensors from one type to another, a piece at a time."""

import struct
from array import array
from collections.abc import Iterable, Iterator

from puna.convert.content import Content
from puna.errors import FormatError
from puna.gguf import GGMLType

_STORED = {name: GGMLType[name] for name in ("F32", "F16", "BF16", "F64", "MXFP4")}


def element_type(tensor: Content, wanted: GGMLType | None) -> GGMLType:
    """The type that a tensor gets: the wanted one, or its own, or for doubles F32. Blocks stay as they are.

    Raises:
        FormatError: its elements are no floating-point numbers.
    """
    own = _STORED.get(tensor.dtype)
    if own is None:
        raise FormatError(
            f"{tensor.file}: the tensor {tensor.name[:100]!r} has elements of type {tensor.dtype}, "
            "which cannot be converted"
        )
    if wanted is not None and not own.is_quantized:
        return wanted
    return GGMLType.F32 if own is GGMLType.F64 else own


def converted(tensor: Content, target: GGMLType) -> Iterator[bytes]:
    """The tensor's elements as F32, F16, or of its own type; rounded to nearest.

    Raises:
        FormatError: a number is too large for F16, or the file cannot be read.
    """
    if _STORED[tensor.dtype] is target:
        yield from tensor.chunks()
        return
    numbers = floats(tensor.dtype, tensor.chunks())
    if target is GGMLType.F32:
        yield from numbers
        return
    for chunk in numbers:
        values = memoryview(chunk).cast("f")
        try:
            yield struct.pack(f"<{len(values)}e", *values)
        except OverflowError as error:
            raise FormatError(
                f"{tensor.file}: the tensor {tensor.name[:100]!r} has numbers too large for F16; "
                "convert it to F32"
            ) from error


def floats(dtype: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same numbers in single precision."""
    for chunk in chunks:
        if dtype == "F32":
            yield chunk
        elif dtype == "BF16":
            yield _widened(chunk)
        else:
            size, code = (2, "e") if dtype == "F16" else (8, "d")
            yield array("f", struct.unpack(f"<{len(chunk) // size}{code}", chunk)).tobytes()


def _widened(halves: bytes) -> bytes:
    """BF16 as F32: the same bits with sixteen zeros below them."""
    wide = bytearray(2 * len(halves))
    wide[2::4], wide[3::4] = halves[::2], halves[1::2]
    return bytes(wide)
