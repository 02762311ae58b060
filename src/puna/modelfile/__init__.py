"""Modelfiles, the text form of a model: reading, writing and the types of their parameters."""
