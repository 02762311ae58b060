"""The config blob: what the store notes about a model, in Ollama's words."""

from math import prod

import msgspec

from puna.gguf import GGUFFile
from puna.humanize import count_text

# llama.cpp's `llama_ftype`, the numbers of `general.file_type`.
_FILE_TYPES = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M"), 7)),
    **dict(enumerate(("Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS"), 16)),
    **dict(enumerate(("IQ1_S", "IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16"), 24)),
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4",
}


class ModelConfig(msgspec.Struct, frozen=True):
    """The config document of a model with one GGUF file.

    Attributes:
        model_family: the GGUF architecture.
        model_type: its size in parameters (`134.52M`).
        file_type: its quantization (`Q4_1`).
    """

    model_format: str
    model_family: str
    model_families: list[str]
    model_type: str
    file_type: str
    architecture: str = "amd64"
    os: str = "linux"


def gguf_config(file: GGUFFile) -> bytes:
    """The config document for a GGUF file, as JSON. Raises: GGUFError."""
    architecture = file.metadata.architecture
    parameters = sum(prod(tensor.shape) for tensor in file.tensors.values())
    config = ModelConfig(
        model_format="gguf",
        model_family=architecture,
        model_families=[architecture],
        model_type=count_text(parameters),
        file_type=_FILE_TYPES.get(file.metadata.uint("general.file_type", 0), "unknown"),
    )
    return msgspec.json.encode(config)
