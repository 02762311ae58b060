"""Which class is the model of which architecture."""

from importlib import import_module

from puna.errors import UnsupportedModel
from puna.ml import Backend
from puna.ml.nn import bind
from puna.models.base import Encoder, Model

# Text, so that a model's module is imported only when a file needs it.
_MODELS = {
    "bert": "puna.models.bert:Bert",
    "cohere2": "puna.models.cohere:Cohere2",
    "command-r": "puna.models.cohere:CommandR",
    "deepseek2": "puna.models.deepseek2:DeepSeek2",
    "gemma2": "puna.models.gemma2:Gemma2",
    "gemma3": "puna.models.gemma3:Gemma3",
    "gemma3n": "puna.models.gemma3n:Gemma3n",
    "glm4": "puna.models.glm4:Glm4",
    "gpt-oss": "puna.models.gptoss:GptOss",
    "gptoss": "puna.models.gptoss:GptOss",
    "granite": "puna.models.granite:Granite",
    "lfm2": "puna.models.lfm2:Lfm2",
    "lfm2moe": "puna.models.lfm2:Lfm2Moe",
    "llama": "puna.models.llama:Llama",
    "llama4": "puna.models.llama4:Llama4",
    "mistral3": "puna.models.mistral3:Mistral3",
    "mllama": "puna.models.mllama:Mllama",
    "nomic-bert": "puna.models.bert:NomicBert",
    "olmo2": "puna.models.olmo2:Olmo2",
    "olmo3": "puna.models.olmo2:Olmo2",
    "phi3": "puna.models.phi3:Phi3",
    "qwen2": "puna.models.qwen2:Qwen2",
    "qwen25vl": "puna.models.qwen2vl:Qwen2VL",
    "qwen2moe": "puna.models.qwen2:Qwen2Moe",
    "qwen2vl": "puna.models.qwen2vl:Qwen2VL",
    "qwen3": "puna.models.qwen3:Qwen3",
    "qwen35": "puna.models.qwen3next:Qwen35",
    "qwen35moe": "puna.models.qwen3next:Qwen35Moe",
    "qwen3moe": "puna.models.qwen3:Qwen3Moe",
    "qwen3next": "puna.models.qwen3next:Qwen3Next",
    "qwen3vl": "puna.models.qwen3vl:Qwen3VL",
    "qwen3vlmoe": "puna.models.qwen3vl:Qwen3VLMoe",
    "starcoder2": "puna.models.starcoder2:StarCoder2",
}


def architectures() -> list[str]:
    """The names that `general.architecture` may have."""
    return sorted(_MODELS)


def model_class(architecture: str) -> type[Model]:
    """The class of an architecture.

    Raises:
        UnsupportedModel: there is none.
    """
    if architecture not in _MODELS:
        known = ", ".join(architectures())
        raise UnsupportedModel(f"models of architecture {architecture!r} are not supported; known: {known}")
    module, name = _MODELS[architecture].split(":")
    found: type[Model] = getattr(import_module(module), name)
    return found


def build_model(backend: Backend) -> Model:
    """The model of the file that `backend` has opened, its weights declared; before `Backend.load`.

    Raises:
        UnsupportedModel: the architecture, or something the file asks for, is not implemented.
        GGUFError: the metadata makes no sense.
        WeightError: the file's tensors are not those of the model.
    """
    metadata = backend.config()
    model = model_class(metadata.architecture)(metadata)
    if isinstance(model, Encoder):
        # Vectors are compared by their angles, which hardly change.
        backend.allow_rounding()
    bind(model, backend, model.ignored)
    return model
