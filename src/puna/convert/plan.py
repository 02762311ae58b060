"""What a converter decides: the keys of the GGUF file, and which tensor becomes which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from puna.convert.content import Content
from puna.errors import WeightError

MAX_LAYERS = 4096
"""More than any model has."""

_NAMED_AT_MOST = 5


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor of the GGUF file.

    Attributes:
        shape: that it must have, slowest axis first.
        matrix: it is multiplied with, so that its type can be chosen; others are F32.
        optional: the model may lack it.
        offset: added to each of its numbers.
    """

    name: str
    shape: tuple[int, ...]
    matrix: bool = False
    optional: bool = False
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is converted.

    Attributes:
        keys: metadata by full name, but for the type of the file.
        tensors: what each tensor becomes.
        max_length: tokens of a text for which the model was made, if that is less than it could take.
        sampling: options for generating, by their names in requests.
        left_out: how many tensors the model does without.
    """

    keys: Mapping[str, Any]
    tensors: Sequence[tuple[Content, Target]]
    max_length: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    left_out: int = 0


T = TypeVar("T", bound=Content)


def matched(tensors: Mapping[str, T], targets: Mapping[str, Target]) -> list[tuple[T, Target]]:
    """Each tensor with what it becomes, in the files' order.

    Args:
        targets: by the tensors' names.

    Raises:
        WeightError: tensors are missing, of no use, or have other shapes; one sentence names them all.
    """
    missing = [name for name, target in targets.items() if name not in tensors and not target.optional]
    unused = [readable(name) for name in tensors if name not in targets]
    pairs = [(tensor, targets[name]) for name, tensor in tensors.items() if name in targets]
    misshaped = [
        f"{readable(tensor.name)} is {_times(tensor.shape)} instead of {_times(target.shape)}"
        for tensor, target in pairs
        if tensor.shape != target.shape
    ]
    kinds = (("they lack ", missing), ("", misshaped), ("nothing uses ", unused))
    problems = [start + _listed(names) for start, names in kinds if names]
    if problems:
        raise WeightError(f"the weights do not fit config.json: {'; '.join(problems)}")
    return pairs


def readable(name: str) -> str:
    """A stranger's name, as errors show it among others."""
    return name[:100] if name[:100].isprintable() else repr(name[:100])


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a number"


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    shown = ", ".join(names[:_NAMED_AT_MOST])
    return f"{shown} and {more} more" if more > 0 else shown
