"""The ggml backend: the C library's kernels on the CPU, GPUs and RPC devices."""

from puna.ml.backends.ggml.backend import open_backend

__all__ = ["open_backend"]
