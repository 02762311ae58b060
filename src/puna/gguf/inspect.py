"""What a model file holds, as plain data: header, metadata, tensors, sizes by type, memory needed."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from puna.errors import GGUFError
from puna.gguf.hyperparameters import read_hyperparameters
from puna.gguf.memory import MemoryNeed, memory_need
from puna.gguf.metadata import Metadata
from puna.gguf.reader import GGUFFile
from puna.gguf.types import FILE_TYPES, GGMLType, TensorInfo

DEFAULT_NUM_CTX: Final = 4096
_SHOWN_ELEMENTS: Final = 6


@dataclass(frozen=True, slots=True)
class MetadataItem:
    """One key.

    Attributes:
        key: its full name.
        type: the value's type, as in "uint32" or "string[262144]".
        value: the value, or the first elements of an array.
        length: elements of an array; None for anything else.
    """

    key: str
    type: str
    value: Any
    length: int | None


@dataclass(frozen=True, slots=True)
class TypeTotal:
    """All tensors of one type: how many, their elements, their bytes."""

    type: GGMLType
    tensors: int
    elements: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model file, told.

    Attributes:
        path: where it is.
        size: its bytes.
        version: of the format.
        byte_order: "little" or "big".
        alignment: of the tensors, bytes.
        data_offset: where the tensors begin, bytes.
        architecture: None if the file names none.
        name: the model's own; None if the file has none.
        file_type: the quantisation by its usual name, such as "Q4_K_M"; None if the file does not say.
        parameters: elements of all tensors.
        metadata: in the file's order.
        tensors: in the file's order.
        types: by bytes, the largest first.
        memory: what running it takes; None if the file does not describe a decoder.
        memory_unknown: why there is no `memory`; None if there is.
    """

    path: str
    size: int
    version: int
    byte_order: str
    alignment: int
    data_offset: int
    architecture: str | None
    name: str | None
    file_type: str | None
    parameters: int
    metadata: tuple[MetadataItem, ...]
    tensors: tuple[TensorInfo, ...]
    types: tuple[TypeTotal, ...]
    memory: MemoryNeed | None
    memory_unknown: str | None


def inspect_file(file: GGUFFile, num_ctx: int | None = None, kv_type: GGMLType = GGMLType.F16) -> Inspection:
    """All there is to tell about an open file; no tensor is read.

    Args:
        num_ctx: the context to tell the memory for; by default 4096, or the model's own if that is less.
        kv_type: how keys and values would be stored.

    Raises:
        InvalidOption: the context or the type makes no sense for this model.
    """
    tensors = tuple(file.tensors.values())
    memory, unknown = _memory(file.metadata, sum(t.nbytes for t in tensors), num_ctx, kv_type)
    return Inspection(
        path=str(file.path),
        size=file.size,
        version=file.version,
        byte_order="little" if file.byte_order == "<" else "big",
        alignment=file.alignment,
        data_offset=file.data_offset,
        architecture=_text(file.metadata, "general.architecture"),
        name=_text(file.metadata, "general.name"),
        file_type=_file_type(file.metadata),
        parameters=sum(t.elements for t in tensors),
        metadata=tuple(_item(file.metadata, key) for key in file.metadata),
        tensors=tensors,
        types=type_totals(tensors),
        memory=memory,
        memory_unknown=unknown,
    )


def type_totals(tensors: tuple[TensorInfo, ...]) -> tuple[TypeTotal, ...]:
    """The tensors summed by type, the most bytes first."""
    counts = Counter(t.type for t in tensors)
    totals = [
        TypeTotal(
            type_,
            count,
            sum(t.elements for t in tensors if t.type == type_),
            sum(t.nbytes for t in tensors if t.type == type_),
        )
        for type_, count in counts.items()
    ]
    return tuple(sorted(totals, key=lambda total: (-total.nbytes, total.type)))


def as_plain(inspection: Inspection) -> dict[str, Any]:
    """The same as dictionaries, lists, strings and numbers, for JSON. Types are named; sizes are in bytes."""
    memory = inspection.memory
    fields = {name: getattr(inspection, name) for name in Inspection.__slots__}
    return fields | {
        "metadata": {item.key: _plain_item(item) for item in inspection.metadata},
        "tensors": [
            {"name": t.name, "type": t.type.name, "shape": t.shape, "offset": t.offset, "nbytes": t.nbytes}
            for t in inspection.tensors
        ],
        "types": [
            {"type": t.type.name, "tensors": t.tensors, "elements": t.elements, "nbytes": t.nbytes}
            for t in inspection.types
        ],
        "memory": None
        if memory is None
        else {
            "num_ctx": memory.num_ctx,
            "kv_type": memory.kv_type.name,
            "weights": memory.weights,
            "kv_cache": memory.kv_cache,
            "compute_estimate": memory.compute,
            "total": memory.total,
        },
    }


def _plain_item(item: MetadataItem) -> dict[str, Any]:
    if item.length is None:
        return {"type": item.type, "value": item.value}
    return {"type": item.type, "length": item.length, "first": item.value}


def _memory(
    metadata: Metadata, weights: int, num_ctx: int | None, kv_type: GGMLType
) -> tuple[MemoryNeed | None, str | None]:
    try:
        sizes = read_hyperparameters(metadata)
    except GGUFError as error:
        return None, str(error)
    context = min(DEFAULT_NUM_CTX, sizes.context_length) if num_ctx is None else num_ctx
    return memory_need(sizes, weights, context, kv_type), None


def _item(metadata: Metadata, key: str) -> MetadataItem:
    entry = metadata.entry(key)
    name = entry.element.name.lower()
    if metadata.is_array(key):
        return MetadataItem(key, f"{name}[{entry.count}]", metadata.first(key, _SHOWN_ELEMENTS), entry.count)
    return MetadataItem(key, name, metadata[key], None)


def _text(metadata: Metadata, key: str) -> str | None:
    value = metadata.get(key)
    return value if isinstance(value, str) else None


def _file_type(metadata: Metadata) -> str | None:
    value = metadata.get("general.file_type")
    return FILE_TYPES.get(value) if isinstance(value, int) else None
