"""The client of a server: Ollama's native API, in Python.

from puna.client import Client

with Client() as client:
    print(client.generate("tiny", "Why is the sky blue?").response)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puna.client.asynchronous import AsyncClient, AsyncStream
    from puna.client.replies import (
        ChatReply,
        EmbedReply,
        GenerateReply,
        ListReply,
        Message,
        ProgressReply,
        RunningReply,
        ShowReply,
        ToolCall,
    )
    from puna.client.synchronous import Client, Stream

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "ChatReply",
    "Client",
    "EmbedReply",
    "GenerateReply",
    "ListReply",
    "Message",
    "ProgressReply",
    "RunningReply",
    "ShowReply",
    "Stream",
    "ToolCall",
]

_ASYNCHRONOUS, _SYNCHRONOUS = ("AsyncClient", "AsyncStream"), ("Client", "Stream")


def __getattr__(name: str) -> Any:
    """Loads what is asked for, and nothing that speaks HTTP with it: replies are used without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "replies"
    if name in _ASYNCHRONOUS:
        module = "asynchronous"
    elif name in _SYNCHRONOUS:
        module = "synchronous"
    return getattr(import_module(f"{__name__}.{module}"), name)
