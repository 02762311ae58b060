"""Vectors of texts: many short texts in one batch without padding between them, long ones in parts."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from puna.engine.adapters import Adapter, throughout
from puna.engine.evaluator import Batch, Evaluator
from puna.errors import ContextLengthExceeded, GGUFError, InvalidOption, WeightError
from puna.gguf import Metadata
from puna.gguf.keys import Pooling
from puna.ml import Tensor
from puna.ml.array import Floats
from puna.models.base import Encoder, Model, Step

Rows = NDArray[np.int32]
Adapted: TypeAlias = Sequence[tuple[Adapter, float]]
"""Adapters, each with its scale."""


def pooling_of(metadata: Metadata, model: Model) -> Pooling:
    """What the file says; where it says nothing, the mean of an encoder's, the last of a decoder's.

    Raises:
        GGUFError: a number without a meaning.
    """
    number = metadata.uint("pooling_type", Pooling.NONE)
    if number not in set(Pooling):
        key = metadata.full_key("pooling_type")
        raise GGUFError(f"{metadata.source}: the key {key!r} is {number}, which is no kind of pooling")
    if number == Pooling.NONE:
        return Pooling.MEAN if isinstance(model, Encoder) else Pooling.LAST
    return Pooling(number)


def scored(model: Encoder) -> Callable[[Step], Tensor]:
    """What computes the scores of texts by the states of their first tokens.

    It raises WeightError where the file has no head that gives scores.
    """

    def compute(step: Step) -> Tensor:
        found = model.scores(model.hidden(step))
        if found is None:
            raise WeightError("the file says that the model scores texts, but it lacks cls.output.weight")
        return found

    return compute


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens begin … end - 1 of a text; `last` if the text ends there."""

    text: int
    begin: int
    end: int
    last: bool = True

    @property
    def size(self) -> int:
        return self.end - self.begin


def pack(lengths: Sequence[int], budget: int, *, most: int | None = None, split: bool) -> list[list[Piece]]:
    """Batches for texts of these lengths, each at least 1.

    Longer texts come first, each goes to the batch that it fills best. A text above the budget has a batch
    of its own, or, with `split`, one for each `budget` of its tokens, in order.

    Args:
        budget: tokens in a batch.
        most: texts in a batch.
    """
    batches: list[list[Piece]] = []
    # (tokens that fit, number of the batch), ascending.
    room: list[tuple[int, int]] = []
    for text in sorted(range(len(lengths)), key=lambda text: -lengths[text]):
        length = lengths[text]
        if length > budget:
            step = budget if split else length
            batches += [[piece] for piece in _pieces(text, length, step)]
            continue
        place = bisect_left(room, (length, -1))
        left, number = room.pop(place) if place < len(room) else (budget, len(batches))
        if number == len(batches):
            batches.append([])
        batches[number].append(Piece(text, 0, length))
        if most is None or len(batches[number]) < most:
            insort(room, (left - length, number))
    return batches


def _pieces(text: int, length: int, step: int) -> Iterator[Piece]:
    for begin in range(0, length, step):
        end = min(begin + step, length)
        yield Piece(text, begin, end, end == length)


def bucket(count: int) -> int:
    """The least size of a graph for `count` rows: less than a sixteenth above it, from 128 on."""
    step = max(8, 1 << max(0, (count - 1).bit_length() - 5))
    return -(-count // step) * step


def texts_together(model: Model, num_batch: int) -> int:
    """Most tokens of a batch of several texts.

    Attention of an encoder's batch grows with the square of its size, the rest of the work does not; with
    256 tokens it costs a sixth of it for texts of some forty.
    """
    return min(num_batch, 256) if isinstance(model, Encoder) else num_batch


@dataclass(frozen=True, slots=True)
class Embedder:
    """Makes vectors with an evaluator that gives states, or scores.

    Attributes:
        evaluator: with a cache that nobody else uses.
        pooling: MEAN, CLS or LAST.
        limit: tokens that a text can have.
        budget: tokens in a batch of several texts, not above the limit.
        vocabulary: how many tokens there are.
        segments: how many kinds of segments the model tells apart; with two, what is behind the first
            `separator` is another than what is before it.
        separator: the token between two texts.
    """

    evaluator: Evaluator
    pooling: Pooling
    limit: int
    budget: int
    vocabulary: int
    segments: int = 0
    separator: int | None = None

    def embed(self, inputs: Sequence[Sequence[int]], adapters: Adapted = ()) -> list[Floats]:
        """One vector F32 (width,) for each text, given as token ids; not normalised.

        Args:
            adapters: what they are made with, each with its scale.

        Raises:
            InvalidOption: a text has no tokens, or a number that is none.
            ContextLengthExceeded: a text is too long.
        """
        texts = [self._checked(text) for text in inputs]
        encoder = isinstance(self.evaluator.model, Encoder)
        lengths = [text.size for text in texts]
        most = None if encoder else self.evaluator.cache.most_sequences
        vectors: dict[int, Floats] = {}
        for pieces in pack(lengths, self.budget, most=most, split=not encoder):
            for piece, vector in zip(pieces, self._pooled(pieces, texts, adapters), strict=True):
                before = vectors.get(piece.text)
                vectors[piece.text] = vector if before is None else self._joined(before, vector)
        if self.pooling is Pooling.MEAN:
            return [vectors[text] / np.float32(lengths[text]) for text in range(len(texts))]
        return [vectors[text] for text in range(len(texts))]

    def _joined(self, before: Floats, vector: Floats) -> Floats:
        """The vector of a text after one more part of it."""
        if self.pooling is Pooling.MEAN:
            return before + vector
        return before if self.pooling is Pooling.CLS else vector

    def _checked(self, text: Sequence[int]) -> Rows:
        if not text:
            raise InvalidOption("there is no text: a vector is made of one token or more")
        if len(text) > self.limit:
            raise ContextLengthExceeded(len(text), self.limit)
        if not 0 <= min(text) <= max(text) < self.vocabulary:
            raise InvalidOption(f"a token id is outside the vocabulary of {self.vocabulary} tokens")
        return np.asarray(text, np.int32)

    def _pooled(self, pieces: Sequence[Piece], texts: Sequence[Rows], adapters: Adapted) -> Floats:
        """For each piece the sum of its states, or its first or last one; F32 (pieces, width)."""
        ends = np.cumsum([piece.size for piece in pieces], dtype=np.int32)
        starts = np.concatenate((ends[:1] * 0, ends[:-1]))
        if self.pooling is Pooling.MEAN:
            states = self._evaluated(pieces, texts, np.arange(ends[-1], dtype=np.int32), adapters)
            return np.add.reduceat(states, starts, axis=0)
        rows = starts if self.pooling is Pooling.CLS else ends - 1
        return self._evaluated(pieces, texts, rows, adapters).copy()

    def _evaluated(
        self, pieces: Sequence[Piece], texts: Sequence[Rows], rows: Rows, adapters: Adapted
    ) -> Floats:
        """The results of some rows of a batch; valid until the next evaluation."""
        batch = Batch(
            np.concatenate([texts[piece.text][piece.begin : piece.end] for piece in pieces]),
            np.concatenate([np.arange(piece.begin, piece.end, dtype=np.int32) for piece in pieces]),
            np.repeat(np.arange(len(pieces), dtype=np.int32), [piece.size for piece in pieces]),
            rows,
            self._segments(pieces, texts),
        )
        if isinstance(self.evaluator.model, Encoder):
            return self._rounded(batch, adapters)
        batch = replace(batch, adapters=throughout(batch.tokens.size, adapters))
        try:
            results = self.evaluator.evaluate(batch)
        except BaseException:
            # There may be earlier parts of a text, which will not be gone on with.
            self._forget(range(len(pieces)))
            raise
        self._forget(sequence for sequence, piece in enumerate(pieces) if piece.last)
        return results

    def _forget(self, sequences: Iterable[int]) -> None:
        for sequence in sequences:
            self.evaluator.cache.remove(sequence, 0)

    def _segments(self, pieces: Sequence[Piece], texts: Sequence[Rows]) -> Rows | int:
        if self.segments < 2 or self.separator is None:
            return 0
        found = [(texts[piece.text] == self.separator).cumsum() for piece in pieces]
        # The separator itself still belongs to the first text.
        behind = [np.concatenate(([0], count[:-1])) > 0 for count in found]
        return np.concatenate(behind).astype(np.int32)

    def _rounded(self, batch: Batch, adapters: Adapted) -> Floats:
        """The batch with some tokens more that no text sees, so that its graph serves many batches."""
        count, wanted = batch.tokens.size, batch.outputs.size
        size = min(bucket(count), self.limit)
        more = size - count
        rows = bucket(wanted)
        outputs = np.pad(batch.outputs, (0, rows - wanted), mode="edge")
        if rows >= size:
            outputs = np.arange(size, dtype=np.int32)
        segments = batch.segments if isinstance(batch.segments, int) else np.pad(batch.segments, (0, more))
        rounded = Batch(
            np.pad(batch.tokens, (0, more)),
            np.pad(batch.positions, (0, more)),
            np.pad(batch.sequences, (0, more), constant_values=-1),
            outputs,
            segments,
            adapters=throughout(size, adapters),
        )
        results = self.evaluator.evaluate(rounded)
        return results[batch.outputs] if rows >= size else results[:wanted]
