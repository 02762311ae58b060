"""SentencePiece BPE ("llama") and Unigram ("t5"), through the sentencepiece library.

The library's ModelProto (sentencepiece_model.proto) is written by hand: three fields per piece and a handful
of settings. GGUF's token types are the numbers of its own enumeration.
"""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

from puna.errors import ModelError
from puna.tokenizer.charsmap import check_charsmap
from puna.tokenizer.chunks import NOWHERE, SIZE, WORD_SPACE, WORD_START, Segment, chunks, crosses
from puna.tokenizer.metadata import TokenizerMetadata
from puna.tokenizer.vocabulary import TokenType, Vocabulary, byte_values, integers

# The library refuses longer ones.
_LONGEST_PIECE = 7999
# Bytes of a piece's message after its text.
_TAIL = 7

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
    charsmap = bytes(value & 0xFF for value in integers(metadata, CHARSMAP))
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
    types = bytearray(vocabulary.types.replace(_byte(TokenType.UNKNOWN), _byte(TokenType.CONTROL)))
    if algorithm is Algorithm.BPE:
        types = types.replace(_byte(TokenType.USER_DEFINED), _byte(TokenType.NORMAL))
    texts, scores = _accepted(vocabulary.tokens, types), vocabulary.scores.tolist()
    if unknown is None:
        texts = [*texts, b"<unknown of the library>"]
        types.append(TokenType.UNKNOWN)
        scores.append(0.0)
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


def _accepted(tokens: list[bytes], types: bytearray) -> list[bytes]:
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


def _pieces_field(texts: Sequence[bytes], types: Sequence[int], scores: Sequence[float]) -> bytes:
    """Field 1, repeated: {1: piece (bytes), 2: score (fixed32), 3: type (varint)}."""
    heads = {length: _head(length) for length in set(map(len, texts))}
    tail = struct.Struct("<BfBB").pack
    parts = [b""] * (3 * len(texts))
    parts[::3] = [heads[len(text)] for text in texts]
    parts[1::3] = texts
    parts[2::3] = [tail(0x15, score, 0x18, type) for score, type in zip(scores, types, strict=True)]
    return b"".join(parts)


def _head(length: int) -> bytes:
    """What stands before a piece's text of so many bytes: its message's tag and size, and its own."""
    own = b"\x0a" + _varint(length)
    return b"\x0a" + _varint(len(own) + length + _TAIL) + own


def _byte(value: int) -> bytes:
    return bytes([value])


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
