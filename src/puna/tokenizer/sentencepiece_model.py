"""SentencePiece BPE ("llama") and Unigram ("t5"), through the sentencepiece library.

The library's ModelProto (sentencepiece_model.proto) is written by hand: three fields per piece and a handful
of settings. GGUF's token types are the numbers of its own enumeration.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray

from puna.errors import ModelError
from puna.tokenizer.charsmap import check_charsmap
from puna.tokenizer.chunks import NOWHERE, SIZE, WORD_SPACE, WORD_START, Segment, chunks, crosses
from puna.tokenizer.metadata import TokenizerMetadata
from puna.tokenizer.vocabulary import TokenType, Vocabulary, byte_values, integers

# The library refuses longer ones.
_LONGEST_PIECE = 7999
# Bytes of a piece's message before and after its text, and pieces put together at a time.
_HEAD, _TAIL = 12, 7
_BLOCK = 1 << 14

CHARSMAP = "tokenizer.ggml.precompiled_charsmap"
ADD_SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"
REMOVE_EXTRA_SPACES = "tokenizer.ggml.remove_extra_whitespaces"


class Algorithm(IntEnum):
    """TrainerSpec.model_type."""

    UNIGRAM = 1
    BPE = 2


@dataclass(frozen=True, slots=True)
class Spacing:
    """What happens to spaces.

    Attributes:
        prefix: a space is put before the text, so that its first word looks like any other.
        remove_extra: leading, trailing and repeated spaces are dropped.
    """

    prefix: bool
    remove_extra: bool


def read_spacing(metadata: TokenizerMetadata, *, prefix: bool) -> Spacing:
    """The file's settings; `prefix` is the default of its kind."""
    return Spacing(metadata.bool(ADD_SPACE_PREFIX, prefix), metadata.bool(REMOVE_EXTRA_SPACES, False))


def read_charsmap(metadata: TokenizerMetadata) -> bytes:
    """The precompiled normalization map, checked; empty where the file has none.

    Raises:
        ModelError: the map is damaged.
    """
    if CHARSMAP not in metadata:
        return b""
    charsmap = integers(metadata, CHARSMAP).astype(np.uint8).tobytes()
    check_charsmap(charsmap)
    return charsmap


def sentencepiece_segment(
    vocabulary: Vocabulary,
    pieces: list[bytes],
    algorithm: Algorithm,
    spacing: Spacing,
    *,
    unknown: int | None,
    charsmap: bytes = b"",
) -> Segment:
    """A function from text without special tokens to ids.

    Args:
        pieces: what the tokens stand for, with spaces; tells where long texts can be cut.
        unknown: the id for characters without tokens; None where the vocabulary has none.
        charsmap: the precompiled normalization map, already checked.

    Raises:
        ModelError: the library refuses the vocabulary.
    """
    from sentencepiece import SentencePieceProcessor

    proto = model_proto(vocabulary, algorithm, spacing, unknown=unknown, charsmap=charsmap)
    native = SentencePieceProcessor()
    try:
        native.LoadFromSerializedProto(proto)
    except RuntimeError as error:
        raise ModelError(f"the vocabulary is not one SentencePiece accepts: {error}") from error
    return _segment(native.EncodeAsIds, pieces, spacing, unknown)


def _segment(encode: Segment, pieces: list[bytes], spacing: Spacing, unknown: int | None) -> Segment:
    prefix = " " if spacing.prefix and not spacing.remove_extra else ""
    # The model's own unknown piece, when the vocabulary has none.
    invented = len(pieces)

    @cache
    def cut() -> re.Pattern[str]:
        return NOWHERE if crosses(pieces) else _cut(spacing)

    def segment(text: str) -> list[int]:
        text = prefix + text
        if len(text) <= 2 * SIZE:
            ids = encode(text)
        else:
            ids = []
            for chunk in chunks(text, cut()):
                part = encode(chunk)
                # A run of unknown characters is one token, also across a cut.
                ids += part[1:] if ids and part and ids[-1] == part[0] == unknown else part
        return ids if unknown is not None else [id for id in ids if id != invented]

    return segment


def _cut(spacing: Spacing) -> re.Pattern[str]:
    if not spacing.remove_extra:
        return WORD_START
    # The library drops the space a chunk begins with and puts its own there, if it puts one.
    return WORD_SPACE if spacing.prefix else NOWHERE


def model_proto(
    vocabulary: Vocabulary,
    algorithm: Algorithm,
    spacing: Spacing,
    *,
    unknown: int | None,
    charsmap: bytes = b"",
) -> bytes:
    """A serialized sentencepiece ModelProto.

    User-defined tokens are taken out of the text before it gets here. For BPE they are written as normal
    pieces, as llama.cpp treats them; for Unigram they keep their type, or their scores would shift the
    penalty of unknown characters. The library wants exactly one unknown piece: where the vocabulary has
    none (`unknown` is None) one is added behind the last. Tokens the library does not take (longer than it
    allows, holding NUL, not UTF-8) become control pieces under another name, which match nothing.

    Raises:
        ModelError: a byte token is not written <0xHH>.
    """
    types = vocabulary.types.copy()
    types[types == TokenType.UNKNOWN] = TokenType.CONTROL
    if algorithm is Algorithm.BPE:
        types[types == TokenType.USER_DEFINED] = TokenType.NORMAL
    texts, scores = _accepted(vocabulary.tokens, types), vocabulary.scores
    if unknown is None:
        texts = [*texts, b"<unknown of the library>"]
        types = np.append(types, np.uint8(TokenType.UNKNOWN))
        scores = np.append(scores, np.float32(0))
    else:
        types[unknown] = TokenType.UNKNOWN
    has_bytes = len(set(byte_values(vocabulary).values())) == 256
    trainer = _varint_field(3, algorithm) + _varint_field(35, has_bytes)
    normalizer = (
        _bytes_field(2, charsmap)
        + _varint_field(3, spacing.prefix and spacing.remove_extra)
        + _varint_field(4, spacing.remove_extra)
        + _varint_field(5, True)
    )
    return _pieces_field(texts, types, scores) + _bytes_field(2, trainer) + _bytes_field(3, normalizer)


def _accepted(tokens: list[bytes], types: NDArray[np.uint8]) -> list[bytes]:
    everything = b"".join(tokens)
    if b"\0" not in everything and max(map(len, tokens)) <= _LONGEST_PIECE and _is_utf8(everything):
        return tokens
    texts = tokens.copy()
    for id, token in enumerate(tokens):
        if b"\0" in token or len(token) > _LONGEST_PIECE or not _is_utf8(token):
            texts[id] = b"<token %d of the file>" % id
            types[id] = TokenType.CONTROL
    return texts


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _pieces_field(texts: list[bytes], types: NDArray[np.uint8], scores: NDArray[np.float32]) -> bytes:
    """Field 1, repeated: {1: piece (bytes), 2: score (fixed32), 3: type (varint)}."""
    blocks = (slice(start, start + _BLOCK) for start in range(0, len(texts), _BLOCK))
    return b"".join(_block(texts[block], types[block], scores[block]) for block in blocks)


def _block(texts: list[bytes], types: NDArray[np.uint8], scores: NDArray[np.float32]) -> bytes:
    """The messages of some pieces, put together by array operations; a loop would take most of the load."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    head = _columns(b"\x0a", _wide_varints(_HEAD + lengths + _TAIL - 6), b"\x0a", _wide_varints(lengths))
    score = scores.astype("<f4").view(np.uint8).reshape(-1, 4)
    tail = _columns(b"\x15", score, b"\x18", types[:, None])
    ends = np.cumsum(_HEAD + lengths + _TAIL)
    out = np.empty(ends[-1], np.uint8)
    out[(ends - _TAIL - lengths - _HEAD)[:, None] + np.arange(_HEAD)] = head
    out[(ends - _TAIL)[:, None] + np.arange(_TAIL)] = tail
    joined = np.frombuffer(b"".join(texts), np.uint8)
    shifts = ends - _TAIL - np.cumsum(lengths)
    out[np.arange(len(joined)) + np.repeat(shifts, lengths)] = joined
    return out.tobytes()


def _columns(*columns: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Columns side by side: arrays (n, width), and single bytes repeated for every row."""
    rows = max(len(column) for column in columns)
    wide = [
        np.broadcast_to(np.frombuffer(c, np.uint8), (rows, 1)) if isinstance(c, bytes) else c for c in columns
    ]
    return np.concatenate(wide, axis=1)


def _wide_varints(values: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Varints of five bytes each, (n, 5): longer than need be, but all alike."""
    groups = values[:, None] >> np.array([0, 7, 14, 21, 28]) & 0x7F
    groups[:, :4] |= 0x80
    narrow: NDArray[np.uint8] = groups.astype(np.uint8)
    return narrow


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _varint_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _bytes_field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value
