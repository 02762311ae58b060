"""What is to be done to a file: decided from its header alone."""

from collections.abc import Mapping
from dataclasses import dataclass

from puna.errors import FormatError, InvalidOption
from puna.gguf import GGMLType, GGUFFile
from puna.gguf.types import padded
from puna.quantize.filetypes import SOURCES, FileType
from puna.quantize.mixture import model_of, needs_importance, tensor_types


@dataclass(frozen=True, slots=True)
class Plan:
    """A quantization.

    Attributes:
        types: of each tensor, in the order of the new file.
        read: bytes of tensors that are read.
        written: about how many bytes the new file has.
    """

    wanted: FileType
    types: Mapping[str, GGMLType]
    read: int
    written: int


def plan_of(file: GGUFFile, wanted: FileType, *, weighted: bool) -> Plan:
    """How to make `wanted` of a model.

    Args:
        weighted: whether there is an importance matrix.

    Raises:
        InvalidOption: the model is quantized already, or the kind needs an importance matrix.
        FormatError: the file is big-endian, or a tensor's name or a key makes no sense.
    """
    if file.byte_order != "<":
        raise FormatError(f"{file.path}: is in big-endian byte order, which cannot be quantized")
    tensors = file.tensors
    types = tensor_types(model_of(file.metadata), tensors.values(), wanted, weighted=weighted)
    changed = {name: type_ for name, type_ in types.items() if type_ != tensors[name].type}
    for name, type_ in changed.items():
        if tensors[name].type not in SOURCES:
            raise InvalidOption(
                "quantization is only supported for F16, BF16 and F32 models; "
                f"tensor {name!r} is {tensors[name].type.name}"
            )
        if not weighted and needs_importance(name, type_, wanted):
            raise InvalidOption(
                f"{wanted.name} needs an importance matrix: without one, {name!r} would be spoilt"
            )
    sizes = [padded(type_.nbytes(tensors[name].shape), file.alignment) for name, type_ in types.items()]
    return Plan(
        wanted, types, sum(tensor.nbytes for tensor in tensors.values()), file.data_offset + sum(sizes)
    )
