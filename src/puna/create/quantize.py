"""What may be asked of quantization, which does not exist yet."""

from puna.errors import InvalidOption, UnsupportedModel

_TARGETS = {
    **{name: name for name in ("F32", "F16", "BF16", "Q8_0", "Q4_K_S", "Q4_K_M")},
    "Q4_K": "Q4_K_M",
}
_SOURCES = ("F16", "BF16", "F32")


def check_quantization(wanted: str, present: str) -> None:
    """See that a model has the type that is wanted.

    Args:
        wanted: the type's name in any case; empty when none is wanted.
        present: the type that the model has.

    Raises:
        InvalidOption: there is no such type, or the model cannot be brought to another.
        UnsupportedModel: it would have to be quantized.
    """
    if not wanted:
        return
    target = _TARGETS.get(wanted.upper())
    if target is None:
        raise InvalidOption(
            f"unsupported quantization type {repr(wanted[:100])[1:-1]} - "
            "supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0"
        )
    if target == present:
        return
    if present not in _SOURCES:
        raise InvalidOption("quantization is only supported for F16, BF16 and F32 models")
    raise UnsupportedModel(
        f"quantizing a {present} model to {target} is not supported yet; give a GGUF file of that type"
    )
