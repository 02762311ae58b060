"""The reference backend: plain NumPy, for reading and for checking others against."""

from puna.ml.backends.reference.backend import open_backend

__all__ = ["open_backend"]
