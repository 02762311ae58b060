"""Choosing the next token from a model's logits.

`SamplingParameters` costs nothing to import (the server half shares it and must not load NumPy); `Sampler`
and `Choice` are loaded on first use.
"""

from typing import TYPE_CHECKING, Any

from puna.sampling.parameters import SamplingParameters

if TYPE_CHECKING:
    from puna.sampling.sampler import Choice, Sampler

__all__ = ["Choice", "Sampler", "SamplingParameters"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from puna.sampling import sampler

    return getattr(sampler, name)
