"""Puna runs language models on your own machine, in Python."""

__version__ = "0.1.0"
