"""LoRA adapters of a loaded model: their files, checked against it, and their matrices on its devices.

A file is as llama.cpp's convert_lora_to_gguf.py makes it: for a tensor of the model, `<name>.lora_a` is A and
`<name>.lora_b` is B of arXiv:2106.09685. A factor of their product is alpha / rank, and 1 without alpha.
"""

from __future__ import annotations

import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from puna.engine.request import MAX_ADAPTERS, AdapterUse
from puna.errors import GGUFError, UnsupportedModel, WeightError
from puna.gguf import GGMLType, GGUFFile, Metadata, TensorInfo
from puna.gguf.byteorder import swap_bytes
from puna.ml import Backend, Context, DType, InsufficientMemory
from puna.ml.array import Floats
from puna.ml.nn import LowRank, Weight, adaptable
from puna.models.base import CrossDecoder, Decoder, Model

_FIRST, _SECOND = ".lora_a", ".lora_b"
_BLOCK = re.compile(r"blk\.([0-9]{1,6})\.", re.ASCII)
_TYPES: Final = (GGMLType.F32, GGMLType.F16, GGMLType.BF16, GGMLType.Q8_0)
_LARGEST_RANK: Final = 1 << 14
_LARGEST_ALPHA: Final = 1_000_000
_ALPHA = "adapter.lora.alpha"
_ELEMENTS: Final[Mapping[GGMLType, type[np.generic]]] = {GGMLType.F32: np.float32, GGMLType.F16: np.float16}


@dataclass(frozen=True, slots=True)
class _Pair:
    """The two matrices of a file for one tensor of the model."""

    name: str
    weight: Weight
    first: TensorInfo
    second: TensorInfo

    @property
    def rank(self) -> int:
        return self.second.shape[-1]


class Adapter:
    """An adapter whose matrices lie on the devices of the layers that they are for.

    To be closed before the model's backend. Graphs that were made with it must not be computed any more then.

    Attributes:
        parts: what it has, for each weight.
    """

    def __init__(self, path: Path, backend: Backend, model: Model) -> None:
        """Opens the file, checks it, and makes room for its matrices.

        Raises:
            GGUFError: the file is no sound GGUF file, or its metadata makes no sense.
            UnsupportedModel: it is no LoRA adapter, or one for a model of another architecture.
            WeightError: its tensors are not for this model.
            InsufficientMemory: they do not fit a device.
        """
        self._file = GGUFFile.open(path)
        self._context: Context | None = None
        try:
            factor = _factor(self._file.metadata, backend.config().architecture)
            self._pairs = _pairs(self._file, targets(model, backend.names()))
            self._context = backend.new_context_size(2 * len(self._pairs))
            output = backend.config().uint("block_count", 0)
            self.parts = [_part(self._context, pair, factor, output) for pair in self._pairs]
        except BaseException:
            self.close()
            raise

    def load(self) -> None:
        """Reads the matrices.

        Raises:
            GGUFError: the file is no longer what it was.
            WeightError: an element is not finite.
        """
        for pair, part in zip(self._pairs, self.parts, strict=True):
            for info, tensor in ((pair.first, part.first), (pair.second, part.second)):
                tensor.write(np.frombuffer(_native(self._file, info), _ELEMENTS.get(info.type, np.uint8)))
                if not np.isfinite(tensor.floats()).all():
                    raise WeightError(f"{self._file.path}: {info.name!r} has an element that is not finite")
        self._file.close()

    def close(self) -> None:
        """Frees the matrices. Closing twice is harmless."""
        self._file.close()
        if self._context is not None:
            self._context.close()


@dataclass(frozen=True, slots=True)
class Applied:
    """An adapter in a batch.

    Attributes:
        scales: F32 (tokens,), what its products for each token are multiplied with.
    """

    adapter: Adapter
    scales: Floats


def targets(model: Model, names: Iterable[str]) -> dict[str, Weight]:
    """The weights that an adapter can be for, by their tensors' names.

    Args:
        names: of the tensors of the model's file.

    Raises:
        UnsupportedModel: no adapter can be applied to this model.
    """
    if isinstance(model, CrossDecoder):
        raise UnsupportedModel("adapters are not supported for models whose layers look across at pictures")
    vision = model.vision if isinstance(model, Decoder) else None
    # What has no tokens has no scales.
    apart = {id(weight) for _, weight in adaptable(vision)} if vision else set()
    known, found = set(names), {}
    for scope, weight in adaptable(model):
        name = next((scope + name for name in weight.names if scope + name in known), None)
        if name is None or id(weight) in apart:
            continue
        # A table that is the matrix of the outputs, too, is adapted where it is looked up, as PEFT does it.
        if weight.rows or not name.endswith("token_embd.weight"):
            found[name] = weight
    return found


def _factor(metadata: Metadata, architecture: str) -> float | None:
    """Alpha; None where the file says none, or 0, which llama.cpp takes for none.

    Raises:
        GGUFError: it is no number.
        UnsupportedModel: another kind of file, or for another architecture.
    """
    kind = metadata.string("general.type", "")
    if kind != "adapter":
        raise UnsupportedModel(f"{metadata.source}: is no adapter: its general.type is {kind[:60]!r}")
    if metadata.architecture != architecture:
        raise UnsupportedModel(
            f"{metadata.source}: is an adapter for {metadata.architecture!r}; the model is {architecture!r}"
        )
    method = metadata.get("adapter.type", "")
    if method != "lora":
        raise UnsupportedModel(
            f"{metadata.source}: is an adapter of type {str(method)[:60]!r}; only 'lora' is supported"
        )
    if any(key.startswith("adapter.alora.") for key in metadata):
        raise UnsupportedModel(f"{metadata.source}: adapters that tokens activate (aLoRA) are not supported")
    alpha = metadata.get(_ALPHA, 0.0)
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not abs(alpha) <= _LARGEST_ALPHA:
        wanted = f"a number of at most {_LARGEST_ALPHA:,}"
        raise GGUFError(f"{metadata.source}: the key {_ALPHA!r} must be {wanted}, not {str(alpha)[:60]}")
    return alpha or None


def _pairs(file: GGUFFile, weights: Mapping[str, Weight]) -> list[_Pair]:
    """The file's matrices by twos. Raises: UnsupportedModel, WeightError: as `Adapter`."""
    names: dict[str, None] = {}
    for name in file.tensors:
        stem = name[: -len(_FIRST)]
        if not name.endswith((_FIRST, _SECOND)):
            raise UnsupportedModel(
                f"{file.path}: {name!r} is no matrix of a low-rank pair; adapters with anything else are not "
                "supported"
            )
        names[stem] = None
    if not names:
        raise WeightError(f"{file.path}: the adapter has no tensors")
    return [_pair(file, name, weights) for name in names]


def _pair(file: GGUFFile, name: str, weights: Mapping[str, Weight]) -> _Pair:
    first, second = file.tensors.get(name + _FIRST), file.tensors.get(name + _SECOND)
    if first is None or second is None:
        raise WeightError(f"{file.path}: {name!r} has one of its two matrices only")
    if name not in weights:
        raise WeightError(
            f"{file.path}: the model has no tensor {name!r} that an adapter could be applied to; "
            "is it for another model?"
        )
    for info in (first, second):
        if info.type not in _TYPES:
            known = ", ".join(type_.name for type_ in _TYPES)
            raise UnsupportedModel(f"{file.path}: {info.name!r} is of type {info.type.name}, not {known}")
    pair = _Pair(name, weights[name], first, second)
    if not _fits(pair):
        shapes = f"{first.shape} and {second.shape} for {_shape(pair.weight)}"
        raise WeightError(f"{file.path}: {name!r} does not fit the model: {shapes}")
    return pair


def _fits(pair: _Pair) -> bool:
    shape, first, second = _shape(pair.weight), pair.first.shape, pair.second.shape
    if len(first) != len(shape) or len(second) != len(shape) or not 0 < pair.rank <= _LARGEST_RANK:
        return False
    *stack, rows, columns = shape
    if pair.weight.rows:
        return (first, second) == ((rows, pair.rank), (columns, pair.rank))
    return (first, second) == ((*stack, pair.rank, columns), (*stack, rows, pair.rank))


def _shape(weight: Weight) -> tuple[int | None, ...]:
    """A weight's shape; one that is stored together with others has only what its model says."""
    return weight.shape if weight.maybe is None else weight.maybe.shape


def _part(context: Context, pair: _Pair, alpha: float | None, output: int) -> LowRank:
    """Room for a pair, on the device of its layer."""
    block = _BLOCK.match(pair.name)
    place = context.weights(int(block[1]) if block else 0 if pair.weight.rows else output)
    first, second = (place.zeros(DType[info.type.name], *info.shape) for info in (pair.first, pair.second))
    return LowRank(pair.weight, first, second, alpha / pair.rank if alpha else 1.0)


def _native(file: GGUFFile, info: TensorInfo) -> memoryview | bytearray:
    """A tensor's content in this machine's byte order."""
    content = file.tensor_bytes(info.name)
    return (
        content if (file.byte_order == "<") == (sys.byteorder == "little") else swap_bytes(info.type, content)
    )


class Adapters:
    """The adapters of a loaded model that are in memory, by their paths.

    Attributes:
        attempt: raises PunaError where the model cannot be computed with one.
        unused: called before one is freed, whose graphs must not be computed any more.
    """

    def __init__(self, backend: Backend, model: Model) -> None:
        self._backend, self._model = backend, model
        self.attempt: Callable[[Adapter], None] = lambda adapter: None
        self.unused: Callable[[], None] = lambda: None
        self._open: OrderedDict[str, Adapter] = OrderedDict()

    def __getitem__(self, path: str) -> Adapter:
        return self._open[path]

    @property
    def all(self) -> list[Adapter]:
        """Those in memory."""
        return list(self._open.values())

    def reserve(self, paths: Iterable[str]) -> list[Adapter]:
        """Makes room for adapters, whose matrices `load` reads. Raises: as `Adapter`."""
        for path in paths:
            self._open[path] = Adapter(Path(path), self._backend, self._model)
        return self.all

    def load(self) -> None:
        """Reads what there is room for. Raises: as `Adapter.load`."""
        for adapter in self._open.values():
            adapter.load()

    def bring(self, paths: Collection[str], used: Collection[str] = ()) -> None:
        """Brings adapters into memory; the one that was used longest ago goes where there are too many.

        Args:
            used: those that must stay; with `paths` at most `MAX_ADAPTERS`.

        Raises:
            PunaError: as `Adapter`.
        """
        for path in paths:
            if path not in self._open:
                self._add(path, {*paths, *used})
            self._open.move_to_end(path)

    def _add(self, path: str, staying: Collection[str]) -> None:
        if len(self._open) >= MAX_ADAPTERS:
            self._drop_oldest(staying)
        while True:
            try:
                adapter = Adapter(Path(path), self._backend, self._model)
                break
            except InsufficientMemory:
                if not self._drop_oldest(staying):
                    raise
        try:
            adapter.load()
            self.attempt(adapter)
        except BaseException:
            adapter.close()
            raise
        self._open[path] = adapter

    def _drop_oldest(self, staying: Collection[str]) -> bool:
        """Whether there was one."""
        oldest = next((path for path in self._open if path not in staying), None)
        if oldest is not None:
            self.unused()
            self._open.pop(oldest).close()
        return oldest is not None

    def close(self) -> None:
        """Frees all; graphs must have been closed."""
        for adapter in self._open.values():
            adapter.close()


def ordered(adapters: Iterable[AdapterUse]) -> tuple[AdapterUse, ...]:
    """Those that change anything, in an order that does not depend on who named them."""
    return tuple(sorted((one for one in adapters if one.scale), key=lambda one: one.path))


def in_batch(parts: Iterable[tuple[int, Sequence[AdapterUse]]], adapters: Adapters) -> tuple[Applied, ...]:
    """The adapters of a batch with their scales.

    Args:
        parts: its sequences, one after the other: how many tokens each has there, and its adapters.
    """
    parts = list(parts)
    counts = [count for count, _ in parts]
    paths = sorted({one.path for _, own in parts for one in own})
    scales = [[_scale(path, own) for _, own in parts] for path in paths]
    return tuple(
        Applied(adapters[path], np.repeat(np.array(each, np.float32), counts))
        for path, each in zip(paths, scales, strict=True)
    )


def throughout(tokens: int, adapters: Iterable[tuple[Adapter, float]]) -> tuple[Applied, ...]:
    """Adapters with the same scale for all tokens of a batch."""
    return tuple(Applied(adapter, np.full(tokens, scale, np.float32)) for adapter, scale in adapters)


def _scale(path: str, own: Sequence[AdapterUse]) -> float:
    return next((one.scale for one in own if one.path == path), 0.0)
