"""The vocabulary of a GGUF file: tokens, their types and scores, checked."""

import math
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TypeVar

from puna.errors import ModelError
from puna.tokenizer.metadata import TokenizerMetadata

TOKENS = "tokenizer.ggml.tokens"
TYPES = "tokenizer.ggml.token_type"
SCORES = "tokenizer.ggml.scores"
SPACE = "▁".encode()

# Larger scores lose no meaning when cut here, and sums over a long text stay finite.
SCORE_LIMIT = 1e9

T = TypeVar("T", int, float)

_BYTE_TOKEN = re.compile(rb"<0x([0-9A-F]{2})>")


class TokenType(IntEnum):
    """Type of a token: the numbers of SentencePiece's own enumeration, as GGUF stores them."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens by id.

    Attributes:
        tokens: the text of each token as the file has it, in UTF-8 bytes; n entries, no two equal.
        types: a value of TokenType for each.
        scores: float32, finite; zeros where the file has none.
        ids: the id of each token.
    """

    tokens: list[bytes]
    types: bytes
    scores: "array[float]"
    ids: dict[bytes, int]

    def __len__(self) -> int:
        return len(self.tokens)

    def ids_of(self, *types: TokenType) -> list[int]:
        """Ids of all tokens of the given types, ascending."""
        wanted = re.compile(b"[" + re.escape(bytes(types)) + b"]")
        return [found.start() for found in wanted.finditer(self.types)]

    def find(self, texts: Iterable[bytes]) -> dict[bytes, int]:
        """Ids of those of the texts that are tokens, in the order of the texts."""
        return {text: self.ids[text] for text in texts if text in self.ids}

    def retyped(self, changes: dict[int, TokenType]) -> "Vocabulary":
        """The same vocabulary with other types for some ids."""
        types = bytearray(self.types)
        for id, type in changes.items():
            types[id] = type
        return replace(self, types=bytes(types))


def read_vocabulary(metadata: TokenizerMetadata, limit: int | None = None) -> Vocabulary:
    """The file's vocabulary, cut to `limit` tokens where it has more.

    Raises:
        GGUFError: the token list is missing, or one of the arrays has the wrong type.
        ModelError: the arrays do not fit each other, or hold a value that makes no sense.
    """
    tokens = metadata.strings_bytes(TOKENS)
    types = _types(metadata, len(tokens))
    scores = _scores(metadata, len(tokens))
    if not tokens:
        raise ModelError(f"{TOKENS} is empty: the file has no vocabulary")
    if limit is not None:
        tokens, types, scores = tokens[:limit], types[:limit], scores[:limit]
    tokens = _named(tokens, types)
    return Vocabulary(tokens, bytes(types), scores, _ids(tokens))


def integers(metadata: TokenizerMetadata, key: str) -> "array[int]":
    """An array of integers.

    Raises:
        GGUFError: the value is no array of numbers.
        ModelError: the numbers are not integers.
    """
    values = metadata.array(key)
    if values.typecode in "fd":
        raise ModelError(f"{key} must hold integers, but holds numbers with a fraction")
    return values


def _of_length(values: "array[T]", key: str, length: int) -> "array[T]":
    if len(values) != length:
        raise ModelError(f"{key} has {len(values)} entries, but {TOKENS} has {length}")
    return values


def _types(metadata: TokenizerMetadata, length: int) -> bytearray:
    if TYPES not in metadata:
        return bytearray([TokenType.NORMAL]) * length
    values = _of_length(integers(metadata, TYPES), TYPES, length)
    if length and not 0 <= min(values) <= max(values) <= max(TokenType):
        strange = next(id for id, value in enumerate(values) if not 0 <= value <= max(TokenType))
        raise ModelError(f"{TYPES}[{strange}] is {values[strange]}, which is no token type")
    return bytearray(values.tolist()).replace(b"\0", bytes([TokenType.NORMAL]))


def _scores(metadata: TokenizerMetadata, length: int) -> "array[float]":
    if SCORES not in metadata:
        return array("f", bytes(4 * length))
    values = _of_length(metadata.array(SCORES), SCORES, length)
    strange = next((id for id, value in enumerate(values) if math.isnan(value)), None)
    if strange is not None:
        raise ModelError(f"{SCORES}[{strange}] is not a number")
    if length and (min(values) < -SCORE_LIMIT or max(values) > SCORE_LIMIT):
        return array("f", [min(max(value, -SCORE_LIMIT), SCORE_LIMIT) for value in values])
    return array("f", values)


def _named(tokens: list[bytes], types: bytearray) -> list[bytes]:
    """Empty tokens get llama.cpp's placeholder text and become control tokens, which no text matches."""
    if b"" not in tokens:
        return tokens
    tokens = list(tokens)
    for id, token in enumerate(tokens):
        if not token:
            tokens[id] = b"[EMPTY_%d]" % id
            types[id] = TokenType.CONTROL
    return tokens


def _ids(tokens: list[bytes]) -> dict[bytes, int]:
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ids) == len(tokens):
        return ids
    # The later of two equal tokens is the one in the table.
    first = next(id for id, token in enumerate(tokens) if ids[token] != id)
    shown = tokens[first][:60].decode(errors="replace")
    raise ModelError(f"{TOKENS}: {shown!r} occurs twice, as ids {first} and {ids[tokens[first]]}")


def readable(tokens: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """Ids and texts of those tokens that are valid UTF-8; no text holds the others."""
    for id, token in enumerate(tokens):
        try:
            yield id, token.decode()
        except UnicodeDecodeError:
            continue


def byte_values(vocabulary: Vocabulary) -> dict[int, int]:
    """The byte that each token of type BYTE stands for, by id.

    Raises:
        ModelError: such a token is not written <0xHH>.
    """
    values = {}
    for id in vocabulary.ids_of(TokenType.BYTE):
        match = _BYTE_TOKEN.fullmatch(vocabulary.tokens[id])
        if match is None:
            shown = vocabulary.tokens[id][:60].decode(errors="replace")
            raise ModelError(f"{TOKENS}[{id}] is {shown!r}, but a byte token is written <0x00> to <0xFF>")
        values[id] = int(match[1], 16)
    return values


def mark_byte_tokens(vocabulary: Vocabulary) -> Vocabulary:
    """Gives tokens written <0xHH> the type BYTE where no token of the file has it.

    Some converters left these typed as normal tokens.
    """
    if TokenType.BYTE in vocabulary.types:
        return vocabulary
    found = vocabulary.find(b"<0x%02X>" % value for value in range(256))
    if len(found) != 256:
        return vocabulary
    return vocabulary.retyped(dict.fromkeys(found.values(), TokenType.BYTE))


def spaced_pieces(vocabulary: Vocabulary) -> list[bytes]:
    """The bytes each token stands for where ▁ is written for a space (all kinds but byte-level BPE)."""
    # One pass over one text: several times as fast as one call per token.
    pieces = b"\0".join(vocabulary.tokens).replace(SPACE, b" ").split(b"\0")
    if len(pieces) != len(vocabulary):
        pieces = [token.replace(SPACE, b" ") for token in vocabulary.tokens]
    for id in vocabulary.ids_of(TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED):
        pieces[id] = vocabulary.tokens[id]
    for id, value in byte_values(vocabulary).items():
        pieces[id] = bytes([value])
    return pieces
