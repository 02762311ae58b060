"""Binding: a model's weights meet the tensors of its file."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from puna.errors import WeightError
from puna.ml.backend import Backend
from puna.ml.nn.module import Module
from puna.ml.nn.weight import Shape, Weight, WeightGroup
from puna.ml.tensor import Tensor

_NAMED_AT_MOST = 5


def bind(model: Module, backend: Backend, ignored: Sequence[str] = ()) -> None:
    """Declares every weight of `model` to `backend` and puts the tensors in their places.

    Strict both ways: what the model needs must be in the file, and what is in the file must be of use.

    Args:
        model: the root of the modules; its own scope counts too.
        backend: before its `load`.
        ignored: patterns (`fnmatch`) of tensors that a file may hold although this model uses none of them.

    Raises:
        WeightError: tensors are missing, have other shapes, or are of no use; one sentence names them all.
    """
    binding = _Binding(backend)
    for scope, part in declared(model):
        if isinstance(part, WeightGroup):
            binding.bind_group(scope, part)
        else:
            binding.bind(scope, part)
    problems = binding.problems(ignored)
    if problems:
        raise WeightError(f"the file does not fit the model: {'; '.join(problems)}")


def declared(module: Module, outer: str = "") -> "Iterator[tuple[str, Weight | WeightGroup]]":
    """Every weight below `module` with what stands before its name: `outer` and the modules' scopes."""
    scope = f"{outer}{module.scope}." if module.scope else outer
    for part in module.parts():
        if isinstance(part, Module):
            yield from declared(part, scope)
        else:
            yield scope, part


class _Binding:
    """What has been found so far, and what has not."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.names = set(backend.names())
        self.used: set[str] = set()
        self.missing: list[str] = []
        self.misshaped: list[str] = []

    def bind(self, scope: str, weight: Weight) -> None:
        name = self._find(scope, weight)
        if name is not None:
            weight.maybe = self.backend.get(name, rows=weight.rows)
            self._check(name, weight.maybe, weight.shape)

    def bind_group(self, scope: str, group: WeightGroup) -> None:
        found = [self._find(scope, weight) for weight in group.weights]
        names = [name for name in found if name is not None]
        if len(names) < len(found):
            return
        group.fused = self.backend.get_concatenated(names)
        if group.fused is not None:
            self._check(" + ".join(names), group.fused, _stacked(group))
            return
        for weight in group.weights:
            self.bind(scope, weight)

    def _find(self, scope: str, weight: Weight) -> str | None:
        candidates = [scope + name for name in weight.names]
        for name in candidates:
            if name in self.names:
                self.used.add(name)
                return name
        if not weight.optional:
            self.missing.append(candidates[0])
        return None

    def _check(self, name: str, tensor: Tensor | None, expected: Shape) -> None:
        if tensor is None:
            self.missing.append(name)
        elif not _fits(tensor.shape, expected):
            wanted = " × ".join("any" if size is None else str(size) for size in expected)
            self.misshaped.append(f"{name} is {' × '.join(map(str, tensor.shape))} instead of {wanted}")

    def problems(self, ignored: Sequence[str]) -> list[str]:
        """What is wrong, one phrase for each kind of mistake."""
        unused = [name for name in sorted(self.names - self.used) if not _matches(name, ignored)]
        kinds = (("it lacks ", self.missing), ("", self.misshaped), ("nothing uses ", unused))
        return [start + _listed(names) for start, names in kinds if names]


def _fits(shape: tuple[int, ...], expected: Shape) -> bool:
    # llama.cpp's converter keeps the single row of what it reads as a vector.
    if len(shape) == len(expected) + 1 and shape[0] == 1:
        shape = shape[1:]
    return len(shape) == len(expected) and all(
        wanted in (None, size) for size, wanted in zip(shape, expected, strict=True)
    )


def _stacked(group: WeightGroup) -> Shape:
    """The shape of a group's members on top of each other."""
    heights = [weight.shape[0] for weight in group.weights]
    total = None if None in heights else sum(height for height in heights if height is not None)
    return (total, *group.weights[0].shape[1:])


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED_AT_MOST])
    more = len(names) - _NAMED_AT_MOST
    return f"{shown} and {more} more" if more > 0 else shown
