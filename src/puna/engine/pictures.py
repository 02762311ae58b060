"""Pictures on their way into a sequence: where they stand, their features, and the cache of both."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from puna.engine.request import Image
from puna.errors import InvalidOption
from puna.kvcache import Cache, EncoderCache
from puna.ml import Backend
from puna.ml.array import Floats
from puna.models.base import CrossDecoder, Decoder, Model, Placement, Vision

MAX_KEPT = 512 << 20
"""Bytes of features that are kept. A picture of Llama 3.2 Vision takes a hundred million."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A picture in a sequence.

    Attributes:
        begin: its first position.
        count: how many positions are its own.
        digest: of its content.
        content: of its file.
        columns: see `Placement`.
        whole: see `Placement`.
    """

    begin: int
    count: int
    digest: bytes
    content: bytes
    columns: int = 0
    whole: bool = True

    @property
    def end(self) -> int:
        """The position behind it."""
        return self.begin + self.count


@dataclass(frozen=True, slots=True)
class Features:
    """What an image encoder made of a picture.

    Attributes:
        rows: F32 (rows, width).
        tiles: how many of the model's tiles it takes.
    """

    rows: Floats
    tiles: int


def expanded(
    prompt: Sequence[int], images: Sequence[Image], placement_of: Callable[[bytes], Placement]
) -> tuple[array[int], tuple[Placed, ...]]:
    """A prompt with the tokens of its pictures, and where they stand.

    Args:
        placement_of: how the picture of a file stands in a prompt.

    Raises:
        InvalidOption: a picture is to stand where there is no token before or after; or as `placement_of`.
    """
    tokens, placed, done = array("i"), [], 0
    for image in images:
        if not done <= image.at <= len(prompt):
            raise InvalidOption(f"a picture cannot stand at token {image.at} of {len(prompt)}, behind {done}")
        placement = placement_of(image.content)
        tokens.extend(prompt[done : image.at])
        tokens.extend(placement.before)
        begin, digest = len(tokens), sha256(image.content).digest()
        placed.append(
            Placed(begin, placement.count, digest, image.content, placement.columns, placement.whole)
        )
        tokens.extend([placement.token] * placement.count)
        tokens.extend(placement.after)
        done = image.at
    tokens.extend(prompt[done:])
    return tokens, tuple(placed)


def without_content(pictures: Sequence[Placed], length: int) -> tuple[Placed, ...]:
    """Those that begin among the first `length` tokens, as they are told apart."""
    return tuple(replace(one, content=b"") for one in pictures if one.begin < length)


def groups(pictures: Sequence[Placed]) -> list[list[Placed]]:
    """Pictures that follow each other without a token between are one group.

    Those that take several positions are embedded, and none hides another: each is a group.
    """
    found: list[list[Placed]] = []
    for picture in pictures:
        if found and picture.count == 1 and found[-1][-1].end == picture.begin:
            found[-1].append(picture)
        else:
            found.append([picture])
    return found


def coordinates(begin: int, end: int, pictures: Sequence[Placed]) -> NDArray[np.int32]:
    """The places of tokens `begin` … `end` - 1 of a sequence: time, row, column, and time again.

    All are alike in a text. The tokens of a picture with columns have the time of its first; what follows
    it goes on behind its last row or column, whichever is further. Bai et al., arXiv:2502.13923, section 2.1.

    Args:
        pictures: the sequence's, in order.

    Returns:
        I32 (4, end - begin).
    """
    positions = np.arange(begin, end, dtype=np.int32)
    time, row, column = positions.copy(), np.zeros_like(positions), np.zeros_like(positions)
    for picture in pictures:
        if not picture.columns or picture.begin >= end:
            continue
        index = positions - picture.begin
        inside, behind = (index >= 0) & (index < picture.count), index >= picture.count
        time[inside] -= index[inside]
        row[inside], column[inside] = np.divmod(index[inside], picture.columns)
        time[behind] -= picture.count - max(picture.columns, picture.count // picture.columns)
    return np.stack((time, time + row, time + column, time))


def common_pictures(left: Sequence[Placed], right: Sequence[Placed], length: int) -> int:
    """Up to which of `length` equal tokens two sequences have the same pictures, each of them whole."""
    for index in range(max(len(left), len(right))):
        one, other = (side[index] if index < len(side) else None for side in (left, right))
        begins = [picture.begin for picture in (one, other) if picture]
        if min(begins) >= length:
            return length
        same = (
            one and other and (one.begin, one.count, one.digest) == (other.begin, other.count, other.digest)
        )
        if not same or (one and one.end > length):
            return min(begins)
    return length


class Gallery:
    """What a model sees pictures with, and the features of those it saw last.

    Args:
        model: the model, if it looks across at pictures; others have their features among its tokens.
        encoder: the part of the cache that holds pictures, for such a model.
        most: bytes of features that are kept; the last picture's are kept in any case.
    """

    def __init__(
        self,
        backend: Backend,
        model: CrossDecoder | None,
        vision: Vision,
        encoder: EncoderCache | None,
        most: int,
    ) -> None:
        self._backend, self._model, self._vision, self._encoder = backend, model, vision, encoder
        self._most = most
        self._kept: OrderedDict[bytes, Features] = OrderedDict()

    @classmethod
    def of(cls, backend: Backend, model: Model, cache: Cache, most: int = MAX_KEPT) -> Gallery | None:
        """What the model sees with; None if it sees nothing."""
        if not isinstance(model, Decoder) or model.vision is None:
            return None
        crossing = model if isinstance(model, CrossDecoder) else None
        return cls(backend, crossing, model.vision, cache.encoder, most)

    def placement(self, content: bytes) -> Placement:
        """How the picture of this file stands in a prompt. Raises: InvalidOption: it is no picture."""
        return self._vision.placement_of(content)

    @property
    def whole(self) -> bool:
        """Whether the tokens of a picture see each other."""
        return self._vision.placement.whole

    def knows(self, sequence: int, picture: Placed) -> bool:
        """Whether showing a picture to a sequence takes no encoding."""
        return picture.digest in self._kept or self._shows(sequence, picture)

    def _shows(self, sequence: int, picture: Placed) -> bool:
        """Whether the cache has it already as a part of what the sequence sees."""
        pictures = self._encoder.pictures(sequence) if self._encoder else ()
        return any(one.position == picture.begin for one in pictures)

    def show(self, sequence: int, picture: Placed) -> None:
        """Makes a picture part of what a sequence sees from now on; once is enough.

        Raises:
            InvalidOption: it is no picture, broken or too large.
            CacheFull: there is no room for it.
            PunaError: whatever else stops the computation; the sequence does not have the picture then.
        """
        encoder = self._encoder
        if encoder is None:
            self.features(picture)
            return
        if self._shows(sequence, picture):
            return
        features = self.features(picture)
        blocks = encoder.place(sequence, picture.begin, picture.digest, features.tiles)
        if blocks:
            try:
                self.write(features.rows, blocks)
            except BaseException:
                encoder.remove(sequence, picture.begin)
                raise

    def embedded(self, picture: Placed) -> Floats | None:
        """What a picture has in place of embeddings; None for a model that looks across."""
        return None if self._encoder else self.features(picture).rows

    def features(self, picture: Placed) -> Features:
        """What the encoder makes of a picture. Raises: as `show`."""
        if picture.digest not in self._kept:
            self._kept[picture.digest] = self._encoded(picture.content)
        self._kept.move_to_end(picture.digest)
        while len(self._kept) > 1 and sum(one.rows.nbytes for one in self._kept.values()) > self._most:
            self._kept.popitem(last=False)
        return self._kept[picture.digest]

    def _encoded(self, content: bytes) -> Features:
        pixels = self._vision.prepare(content)
        with self._backend.new_context() as context:
            result = self._vision.encode(context, pixels, self._backend.cache_config().mask_dtype)
            context.forward(result).compute(result)
            return Features(result.floats(), len(pixels.tiles))

    def write(self, features: Floats, blocks: Sequence[int]) -> None:
        """Writes keys and values of a picture into blocks of the cache.

        Args:
            features: F32 (rows, width).
        """
        if self._model is None or self._encoder is None:
            return
        with self._backend.new_context() as context:
            rows = context.input().from_floats(features, *features.shape)
            for layer, key, value in self._model.crossed(rows):
                self._encoder.write(context, layer, key, value, blocks)
            context.compute()

    def reserve(self) -> None:
        """Makes room for the largest picture's graphs. Raises: InsufficientMemory: there is none."""
        with self._backend.new_context() as context:
            mask_dtype = self._backend.cache_config().mask_dtype
            context.forward(self._vision.encode(context, self._vision.largest, mask_dtype)).reserve()
