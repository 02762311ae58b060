"""Model definitions: one file per architecture, found by name through `registry`."""

from puna.models.base import Model, Step
from puna.models.registry import architectures, build_model

__all__ = ["Model", "Step", "architectures", "build_model"]
