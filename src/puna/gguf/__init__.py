"""Reading and writing GGUF, the model file format of ggml. Importing it brings in neither NumPy nor ggml."""

from puna.gguf.metadata import Metadata, Value
from puna.gguf.reader import GGUFFile
from puna.gguf.types import GGMLType, TensorInfo, ValueType
from puna.gguf.writer import GGUFWriter, metadata_of

__all__ = [
    "GGMLType",
    "GGUFFile",
    "GGUFWriter",
    "Metadata",
    "TensorInfo",
    "Value",
    "ValueType",
    "metadata_of",
]
