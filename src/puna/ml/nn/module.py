"""Module: a part of a model, made of weights and smaller parts."""

from collections.abc import Iterator

from puna.ml.nn.weight import Weight, WeightGroup


class Module:
    """A part of a model; its weights and modules are its attributes, or lie in lists that are.

    Attributes:
        scope: what the file puts before the names of everything inside, such as "blk.3"; empty for nothing.
    """

    scope: str = ""

    def parts(self) -> "Iterator[Module | Weight | WeightGroup]":
        """The modules and weights directly inside, in the order in which they were assigned."""
        for value in vars(self).values():
            for part in value if isinstance(value, list | tuple) else (value,):
                if isinstance(part, Module | Weight | WeightGroup):
                    yield part
