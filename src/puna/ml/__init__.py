"""The tensor interface: backends, contexts, tensors, memory reports."""

from puna.ml.backend import Backend, BackendParams, CacheConfig, new_backend, register_backend
from puna.ml.context import Context
from puna.ml.dtype import DType
from puna.ml.dump import DumpOptions, dump
from puna.ml.memory import AllocationStatus, BackendMemory, DeviceMemory, InsufficientMemory, Memory
from puna.ml.rope import RopeParameters, RopeType
from puna.ml.tensor import Tensor

__all__ = [
    "AllocationStatus",
    "Backend",
    "BackendMemory",
    "BackendParams",
    "CacheConfig",
    "Context",
    "DType",
    "DeviceMemory",
    "DumpOptions",
    "InsufficientMemory",
    "Memory",
    "RopeParameters",
    "RopeType",
    "Tensor",
    "dump",
    "new_backend",
    "register_backend",
]
