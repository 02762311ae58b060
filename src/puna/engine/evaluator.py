"""The evaluator: batches of tokens in, logits or states out, by graphs that are built once and run again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from puna.engine.adapters import Adapter, Applied
from puna.kvcache import Cache, History
from puna.ml import Backend, Context, DType, Tensor
from puna.ml.array import Array, Floats
from puna.ml.nn import Scales, adapting
from puna.models.base import Decoder, Model, Step

# Decoding needs one graph per span of cells and number of sequences, prompts one per length; a few of each
# are alive at a time, and each costs less than a megabyte.
_MAX_GRAPHS = 16


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of a batch.

    Attributes:
        features: F32 (rows, hidden).
        sources: see `Step.sources`.
        horizons: up to which position of its sequence each token sees; None where that is its own.
    """

    features: Floats
    sources: NDArray[np.int32]
    horizons: NDArray[np.int32] | None

    @staticmethod
    def of(
        positions: NDArray[np.int32], pictures: Sequence[tuple[int, Floats]], *, whole: bool = True
    ) -> Pictures | None:
        """The pictures of a batch, each given by its first token there and a row for each of its tokens.

        Args:
            positions: of all tokens of the batch.
            whole: the tokens of a picture see all of it.
        """
        if not pictures:
            return None
        sources, horizons = np.arange(positions.size, dtype=np.int32), positions.copy()
        rows = positions.size
        for first, own_features in pictures:
            own = slice(first, first + len(own_features))
            sources[own] = np.arange(rows, rows + len(own_features))
            horizons[own] = positions[own][-1]
            rows += len(own_features)
        features = np.concatenate([features for _, features in pictures])
        return Pictures(features, sources, horizons if whole else None)


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens to evaluate together.

    Attributes:
        tokens: token ids.
        positions: each one's position in its sequence.
        sequences: each one's sequence.
        outputs: indexes into the batch whose results are wanted, ascending, possibly none.
        segments: see `Step.segments`; one number stands for all.
        pictures: what stands in it in place of embeddings, None for nothing.
        adapters: what is added to the model's products, for each token with a scale of its own.
        coordinates: I32 (`Model.coordinates`, tokens), the tokens' places; None where all are the positions.
    """

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    sequences: NDArray[np.int32]
    outputs: NDArray[np.int32]
    segments: NDArray[np.int32] | int = 0
    pictures: Pictures | None = None
    adapters: tuple[Applied, ...] = ()
    coordinates: NDArray[np.int32] | None = None

    @staticmethod
    def next(tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]) -> Batch:
        """One more token of each of several sequences, with the logits of all."""
        values = np.array((tokens, positions, sequences), np.int32)
        return Batch(values[0], values[1], values[2], _all(len(tokens)))

    @staticmethod
    def of(tokens: Sequence[int], start: int, sequence: int = 0, *, all_outputs: bool = False) -> Batch:
        """Consecutive tokens of one sequence from position `start`, with the last one's logits or all."""
        count = len(tokens)
        first_output = 0 if all_outputs else count - 1
        return Batch(
            np.asarray(tokens, np.int32),
            np.arange(start, start + count, dtype=np.int32),
            np.full(count, sequence, np.int32),
            np.arange(first_output, count, dtype=np.int32),
        )


@cache
def _all(count: int) -> NDArray[np.int32]:
    """Every index of a batch."""
    return np.arange(count, dtype=np.int32)


@dataclass(slots=True)
class _Traced:
    """A graph with the arrays through which its inputs are written.

    Attributes:
        positions: (coordinates, tokens).
        layout: the outputs and segments that were written last.
    """

    context: Context
    tokens: Array
    positions: Array
    outputs: Array
    segments: Array
    temperatures: Array
    history: History
    result: Tensor
    features: Array | None
    sources: Array | None
    scales: list[Array]
    layout: tuple[NDArray[np.int32], NDArray[np.int32] | int] | None = None

    def write(self, batch: Batch) -> None:
        """Makes the inputs those of a batch."""
        self.tokens[:] = batch.tokens
        self.positions[:] = batch.positions if batch.coordinates is None else batch.coordinates
        # In decoding these are the same arrays step for step.
        if self.layout is None or self.layout[0] is not batch.outputs or self.layout[1] is not batch.segments:
            self.outputs[: len(batch.outputs)] = batch.outputs
            self.segments[:] = batch.segments
            self.layout = batch.outputs, batch.segments
        if batch.pictures is not None and self.features is not None and self.sources is not None:
            self.features[:] = batch.pictures.features
            self.sources[:] = batch.pictures.sources
        for scales, applied in zip(self.scales, batch.adapters, strict=True):
            scales[:] = applied.scales


class Evaluator:
    """Evaluates batches with one model and one cache.

    What the model computes is traced only when a batch has a shape that was not seen lately: its number of
    tokens and outputs, and the span of cells that they look at. Otherwise the batch's numbers are written
    into the inputs of the existing graph, which is run again.
    """

    def __init__(
        self,
        backend: Backend,
        model: Model,
        cache: Cache,
        *,
        compute: Callable[[Step], Tensor] | None = None,
    ) -> None:
        """
        Args:
            cache: the model's, with room before anything is evaluated.
            compute: what of the model is wanted; None takes a decoder's logits and an encoder's states.
        """
        self.backend = backend
        self.model = model
        self.cache = cache
        self.compute = compute or (model.forward if isinstance(model, Decoder) else model.hidden)
        self._traced: OrderedDict[Hashable, _Traced] = OrderedDict()

    def evaluate(self, batch: Batch) -> Floats:
        """Evaluates the batch and stores its keys and values in the cache.

        Returns:
            F32 (outputs, vocabulary) of logits, else (outputs, width); valid until the next call.

        Raises:
            CacheFull: the cache has no room for the batch; nothing has changed.
            PunaError: whatever else stops the computation; the cache has nothing of the batch then.
        """
        history = self.cache.start(batch.positions, batch.sequences)
        try:
            return self._computed(batch, history)
        except BaseException:
            for sequence in set(batch.sequences.tolist()):
                self.cache.remove(sequence, int(batch.positions[batch.sequences == sequence].min()))
            raise

    def _computed(self, batch: Batch, history: Hashable) -> Floats:
        wanted = len(batch.outputs)
        # A graph without outputs would be one of a kind; that of one output serves as well.
        pictures = batch.pictures
        shape = pictures.features.shape if pictures else None
        adapters = tuple([applied.adapter for applied in batch.adapters])
        traced = self._graph(len(batch.tokens), wanted or 1, history, shape, adapters)
        traced.write(batch)
        if pictures is not None and pictures.horizons is not None:
            self.cache.look_ahead(pictures.horizons)
        temperatures = self.model.temperatures(batch.positions)
        if temperatures is not None:
            traced.temperatures[:] = temperatures
        self.cache.fill(traced.history)
        traced.context.compute(traced.result)
        return traced.result.array()[:wanted]

    def reserve(self, num_batch: int, outputs: int = 1, adapters: Sequence[Adapter] = ()) -> None:
        """Makes room for the largest graph: `num_batch` tokens, logits of `outputs`, at full history.

        Args:
            adapters: those that it has.

        Raises:
            InsufficientMemory: there is none.
        """
        with self.backend.new_context() as context:
            worst = self.cache.worst_case()
            rows = min(outputs, num_batch)
            result = self._trace(context, num_batch, rows, worst, adapters=adapters)[1]
            context.forward(result).reserve()

    def forget_graphs(self) -> None:
        """Drops all graphs; the next batches build theirs anew."""
        while self._traced:
            self._traced.popitem()[1].context.close()

    def close(self) -> None:
        """Frees graphs and cache; the backend stays open."""
        self.forget_graphs()
        self.cache.close()

    def _graph(
        self,
        tokens: int,
        outputs: int,
        history: Hashable,
        features: tuple[int, ...] | None,
        adapters: tuple[Adapter, ...],
    ) -> _Traced:
        key = (tokens, outputs, history, features, adapters)
        if key in self._traced:
            self._traced.move_to_end(key)
            return self._traced[key]
        while len(self._traced) >= _MAX_GRAPHS:
            self._traced.popitem(last=False)[1].context.close()
        context = self.backend.new_context()
        try:
            step, result, scales = self._trace(context, tokens, outputs, history, features, adapters)
            context.forward(result)
            ids, rows = step.tokens.array(), step.outputs.array()
            positions = step.positions.array().reshape(self.model.coordinates, tokens)
            # A batch that wants no logits leaves this as it is, and it must make sense.
            rows[:] = 0
            segments, temperatures = step.segments.array(), step.temperatures.array().reshape(-1)
        except BaseException:
            context.close()
            raise
        replaced = step.features.array() if step.features else None
        sources = step.sources.array() if step.sources else None
        written = [each.array().reshape(-1) for each in scales]
        self._traced[key] = traced = _Traced(
            context,
            ids,
            positions,
            rows,
            segments,
            temperatures,
            step.history,
            result,
            replaced,
            sources,
            written,
        )
        return traced

    def _trace(
        self,
        context: Context,
        tokens: int,
        outputs: int,
        history: Hashable,
        features: tuple[int, ...] | None = None,
        adapters: Sequence[Adapter] = (),
    ) -> tuple[Step, Tensor, list[Tensor]]:
        inputs = context.input()
        ids = inputs.empty(DType.I32, tokens)
        positions = inputs.empty(DType.I32, tokens * self.model.coordinates)
        rows = inputs.empty(DType.I32, outputs)
        segments = inputs.empty(DType.I32, tokens)
        temperatures = inputs.empty(DType.F32, tokens, 1, 1)
        seen = self.cache.trace(context, tokens, history)
        step = Step(ids, positions, rows, seen, segments, temperatures)
        if features is not None:
            replaced = inputs.empty(DType.F32, *features), inputs.empty(DType.I32, tokens)
            step = Step(ids, positions, rows, seen, segments, temperatures, *replaced)
        scales = [inputs.empty(DType.F32, tokens, 1) for _ in adapters]
        with adapting([(one.parts, Scales(each, rows)) for one, each in zip(adapters, scales, strict=True)]):
            return step, self.compute(step), scales
