"""What a model can be quantized to: names, their numbers in files, and the type that most weights get.

Source: llama.cpp, `enum llama_ftype` and the names that its quantizing program takes.
"""

from dataclasses import dataclass
from typing import Final

from puna.errors import InvalidOption
from puna.gguf import GGMLType


@dataclass(frozen=True, slots=True)
class FileType:
    """A kind of quantized model.

    Attributes:
        name: such as `Q4_K_M`.
        number: `general.file_type` in a file of it.
        type: what most matrices get; some get another, see `puna.quantize.mixture`.
    """

    name: str
    number: int
    type: GGMLType


_TYPES: Final = {
    name: FileType(name, number, type_)
    for name, number, type_ in (
        ("F32", 0, GGMLType.F32),
        ("F16", 1, GGMLType.F16),
        ("BF16", 32, GGMLType.BF16),
        ("Q8_0", 7, GGMLType.Q8_0),
        ("Q4_0", 2, GGMLType.Q4_0),
        ("Q4_1", 3, GGMLType.Q4_1),
        ("Q5_0", 8, GGMLType.Q5_0),
        ("Q5_1", 9, GGMLType.Q5_1),
        ("Q2_K", 10, GGMLType.Q2_K),
        ("Q2_K_S", 21, GGMLType.Q2_K),
        ("Q3_K_S", 11, GGMLType.Q3_K),
        ("Q3_K_M", 12, GGMLType.Q3_K),
        ("Q3_K_L", 13, GGMLType.Q3_K),
        ("Q4_K_S", 14, GGMLType.Q4_K),
        ("Q4_K_M", 15, GGMLType.Q4_K),
        ("Q5_K_S", 16, GGMLType.Q5_K),
        ("Q5_K_M", 17, GGMLType.Q5_K),
        ("Q6_K", 18, GGMLType.Q6_K),
        ("IQ4_NL", 25, GGMLType.IQ4_NL),
        ("IQ4_XS", 30, GGMLType.IQ4_XS),
    )
}
_ALIASES: Final = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

NAMES: Final = (*_TYPES,)
"""The names, from plain numbers to the smallest blocks."""

SOURCES: Final = frozenset({GGMLType.F32, GGMLType.F16, GGMLType.BF16})
"""The types that are quantized; from any other, too much is lost already."""


def file_type(name: str) -> FileType:
    """The kind of a name in any case; `Q3_K`, `Q4_K`, `Q5_K` are the M mixes. Raises: InvalidOption."""
    upper = name.upper()
    found = _TYPES.get(_ALIASES.get(upper, upper))
    if found is None:
        raise InvalidOption(
            f"unsupported quantization type {repr(name[:100])[1:-1]} - supported types are {', '.join(NAMES)}"
        )
    return found
