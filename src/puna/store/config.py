"""The config blob: what the store notes about a model, in Ollama's words."""

from math import prod

import msgspec
from msgspec import UNSET, UnsetType

from puna import gojson
from puna.errors import StoreError
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


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The config document of a model, in the order of Ollama's fields. What is unset is not written.

    Attributes:
        model_format: `gguf` or `safetensors`.
        model_family: the GGUF architecture.
        model_families: one for each file with weights.
        model_type: its size in parameters (`134.52M`).
        file_type: its quantization (`Q4_1`).
        renderer: the name of a built-in way to write prompts.
        parser: the name of a built-in way to read answers.
        requires: the least version of Ollama that runs it.
        capabilities: what it can do besides what its files tell.
    """

    model_format: str = ""
    model_family: str = ""
    model_families: list[str] | None = None
    model_type: str = ""
    file_type: str = ""
    renderer: str | UnsetType = UNSET
    parser: str | UnsetType = UNSET
    requires: str | UnsetType = UNSET
    remote_host: str | UnsetType = UNSET
    remote_model: str | UnsetType = UNSET
    capabilities: list[str] | UnsetType = UNSET
    context_length: int | UnsetType = UNSET
    embedding_length: int | UnsetType = UNSET
    base_name: str | UnsetType = UNSET
    architecture: str = "amd64"
    os: str = "linux"


def encode_config(config: ModelConfig) -> bytes:
    """The document as Ollama writes it."""
    return gojson.document(msgspec.to_builtins(config), sort_keys=False)


def decode_config(content: bytes) -> ModelConfig:
    """The config in a document. Raises: StoreError."""
    try:
        return msgspec.json.decode(content, type=ModelConfig)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"the config is not valid: {error}") from error


def gguf_config(file: GGUFFile) -> ModelConfig:
    """The config of a model whose weights are in one GGUF file. Raises: GGUFError."""
    architecture = file.metadata.architecture
    parameters = sum(prod(tensor.shape) for tensor in file.tensors.values())
    return ModelConfig(
        model_format="gguf",
        model_family=architecture,
        model_families=[architecture],
        model_type=count_text(parameters),
        file_type=_FILE_TYPES.get(file.metadata.uint("general.file_type", 0), "unknown"),
    )
