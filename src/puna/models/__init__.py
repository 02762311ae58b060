"""Model definitions: one file per architecture, found by name through `registry`."""

from puna.models.base import Decoder, Encoder, Model, Step
from puna.models.registry import architectures, build_model

__all__ = ["Decoder", "Encoder", "Model", "Step", "architectures", "build_model"]
