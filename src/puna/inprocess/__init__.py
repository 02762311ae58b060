"""A model in this very process, for Python programs: `puna.load`."""

from puna.inprocess.loading import load
from puna.inprocess.model import Model, Pieces

__all__ = ["Model", "Pieces", "load"]
