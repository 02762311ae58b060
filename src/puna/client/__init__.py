"""The client of a server: Ollama's native API, in Python.

from puna.client import Client

with Client() as client:
    print(client.generate("tiny", "Why is the sky blue?").response)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from puna.client.asynchronous import AsyncClient, AsyncStream
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

_LAZY = {
    "AsyncClient": "puna.client.asynchronous",
    "AsyncStream": "puna.client.asynchronous",
    "Client": "puna.client.synchronous",
    "Stream": "puna.client.synchronous",
}


def __getattr__(name: str) -> Any:
    """Loads what speaks HTTP only when it is asked for: replies are used without it."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
